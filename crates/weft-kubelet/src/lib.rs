//! The lab's kubelet: pods from the API to sandboxes, probes, logs and exec.
