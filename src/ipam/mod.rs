//! (room ipam)
