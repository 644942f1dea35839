//! Planner: routes, tunnels and addresses of a node; IPAM.
