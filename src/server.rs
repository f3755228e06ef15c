//! Sockets: accepting, limiting and stopping.
