//! The sandbox against the real kernel. Needs root.

mod confinement;
mod containers;
mod limits;
mod pods;
mod support;
