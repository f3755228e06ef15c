//! The settings of a gateway: named, with defaults and limits. Read by `main` and [`gateway`](crate::gateway) only.
