//! The offline store on Lance.
