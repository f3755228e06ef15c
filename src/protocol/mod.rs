//! Bytes to session and back.
