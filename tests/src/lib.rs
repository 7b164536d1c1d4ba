//! Synthetic vmcores, oracles, the VM lab, and xtask.
//!
//! Not part of what is installed. [`lab`] crashes real kernels in QEMU and reads the dumps back with other people's
//! tools; [`vm`] has the scenarios that run there; [`xtask`] are the project's verbs; [`synth`] builds vmcores of every
//! era; [`kdump_reader`] and [`elf_reader`] read dumps with none of the product's code; [`fuzz_seeds`] is what fuzzing starts from.

pub mod elf_reader;
pub mod fuzz_seeds;
pub mod kdump_reader;
pub mod lab;
pub mod lzo_reader;
pub mod order;
pub mod page_codec;
pub mod synth;
pub mod vm;
pub mod xtask;
