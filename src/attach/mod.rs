//! (room attach)
