//! (room cni)
