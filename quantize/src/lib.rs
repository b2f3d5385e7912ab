//! Mote's offline quantizer: from a float model to an image.
//!
//! Data flows one way: [`import`] (files to weights) -> [`calibrate`] (ranges and importances) -> [`codes`] (weights to
//! 4- or 8-bit codes) -> [`lower`] (the program) -> [`plan`] (its memory) -> [`write`](mod@write) (the image).
//! [`quantize`](mod@quantize) drives them, an op at a time (what errors count is found a layer at a time); [`parts`] keeps what is finished, [`merge`](mod@merge) makes an image
//! of it. [`net`] does for nets: [`graph`] has their passes and their quantization, [`samples`] reads what they are calibrated with,
//! [`layers`] turns layers into an op's constants, [`vectors`] does for word vectors. [`float`] is the reference language models
//! are measured against; [`board`] knows the boards that images run on, [`mod@macs`] how much a net multiplies, [`ram`] how little
//! memory it can do with; [`report`] writes a page of what was lost and where.

mod allocate;
pub mod balance;
pub mod board;
pub mod calibrate;
pub mod codes;
mod curvature;
pub mod float;
pub mod frontend;
pub mod graph;
pub mod import;
pub mod layers;
pub mod lower;
pub mod macs;
pub mod merge;
pub mod net;
pub mod parts;
pub mod plan;
pub mod quantize;
pub mod ram;
pub mod report;
pub mod samples;
pub mod vectors;
pub mod write;
