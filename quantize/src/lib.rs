//! Mote's offline quantizer: from a float model to an image.
//!
//! Data flows one way: [`import`] (files to weights) -> [`codes`] (weights to 4- or 8-bit codes) -> [`lower`] (the
//! program) -> [`plan`] (its memory) -> [`write`] (the image). [`quantize`] drives them, a layer at a time; [`float`] is
//! the reference they are measured against.

pub mod board;
pub mod codes;
pub mod float;
pub mod import;
