//! Planning, packing: see the brief.
