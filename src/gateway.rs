//! The only place where the parts of a gateway are built and joined.
