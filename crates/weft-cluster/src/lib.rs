//! What a real cluster brings itself: scheduler, workloads, EndpointSlices, pod CIDRs.
