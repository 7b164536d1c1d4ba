//! The crate's public face, against fabricated machines, real kernel packages and other people's tools.

mod golden;
mod image;
mod kernels;
mod support;
