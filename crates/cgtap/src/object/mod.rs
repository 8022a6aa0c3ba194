//! ELF to image.

pub mod image;
