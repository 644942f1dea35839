//! The CNI plugin: protocol types, and the client of the agent's socket.
