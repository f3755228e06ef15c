//! The physical operators, named as `EXPLAIN` prints them.
