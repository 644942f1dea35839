//! Watches, indexes, and lowering of Kubernetes objects to the model.
