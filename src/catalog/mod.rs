//! The registry as SQL sees it.
