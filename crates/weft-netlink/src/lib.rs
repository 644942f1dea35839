//! Links, routes, neighbours, namespaces and netfilter over netlink.
