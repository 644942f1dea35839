//! Planner: Services and endpoints to load-balancer tables.
