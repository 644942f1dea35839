//! The lab: supervisor, virtual nodes, underlay and verification.
