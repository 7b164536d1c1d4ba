//! Settings and arming.
