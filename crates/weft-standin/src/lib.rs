//! The stand-in: a small server in place of an image that is not there.
