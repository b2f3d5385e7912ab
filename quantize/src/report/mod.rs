//! What quantization has cost, as one page of HTML that loads nothing and runs nothing: `mote quantize --report`.
//!
//! [`language_model`] and [`vectors`] measure a finished image against its float model; [`page`] shows what they found, and of
//! what they do not know (nets) what the image says of itself. The page's template, `templates/report.html`, escapes all text.

mod charts;
mod continuations;
mod measure;

pub use continuations::{Continuation, Written};
pub use measure::{Errors, Findings, Found, Tried, language_model, vectors};

use crate::float::FloatError;
use crate::import::ImportError;
use crate::quantize::{Meta, TensorReport};
use askama::Template;
use charts::{Bar, Heat, Histogram, Share};
use mote_host::HostError;
use std::borrow::Borrow;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The float model, or what the image says of itself, could not be read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The float evaluator.
    #[error(transparent)]
    Float(#[from] FloatError),
    /// The image could not be run.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The template could not be filled in.
    #[error("the report's page: {0}")]
    Page(#[from] askama::Error),
}

/// A tensor as the page shows it.
struct Row<'p> {
    tensor: &'p TensorReport,
    found: Option<&'p Found>,
    /// "layer 3", "encoder 0", or nothing outside of a language model's layers.
    layer: Option<String>,
    /// The rest of its name.
    kind: String,
}

impl<'p> Row<'p> {
    fn new(tensor: &'p TensorReport, found: Option<&'p Found>, layered: bool) -> Self {
        let (layer, kind) = if layered { place(&tensor.name) } else { (None, tensor.name.clone()) };
        Self { tensor, found, layer, kind }
    }

    fn label(&self) -> String {
        self.layer.iter().chain([&self.kind]).cloned().collect::<Vec<_>>().join(" ")
    }

    fn is_matrix(&self) -> bool {
        matches!(self.tensor.bits, 4 | 5 | 8) && self.tensor.shape.len() == 2
    }

    fn shape(&self) -> String {
        self.tensor.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ")
    }

    fn weights(&self) -> u64 {
        self.tensor.shape.iter().product::<usize>() as u64
    }

    /// Against the model's own weights if they were looked at; else what the codes lost of what they were made from.
    fn relative_error(&self) -> f64 {
        let measured = self.found.and_then(|f| f.errors.as_ref());
        measured.map_or(self.tensor.relative_error, |errors| errors.relative)
    }

    /// Of integers that a net was quantized to no errors are known.
    fn shown_error(&self) -> String {
        let known = self.found.is_some_and(|f| f.errors.is_some()) || self.tensor.relative_error > 0.0;
        if known { number(self.relative_error()) } else { String::new() }
    }

    fn rows(&self) -> Option<String> {
        self.found?.rows.map(number)
    }

    fn shown_divergence(&self) -> Option<String> {
        self.divergence().map(number)
    }

    fn divergence(&self) -> Option<f64> {
        self.found?.divergence
    }

    fn histogram(&self) -> Option<Histogram> {
        let errors = self.found?.errors.as_ref().filter(|errors| errors.relative > 0.0)?;
        Some(Histogram::new(&[errors.histogram]))
    }
}

/// The layer that a tensor's name says, and the rest of the name: the number between dots, and the words before it that are not
/// those which every model has.
fn place(name: &str) -> (Option<String>, String) {
    const USUAL: [&str; 5] = ["model", "transformer", "h", "layers", "layer"];
    let parts: Vec<&str> = name.strip_suffix(".weight").unwrap_or(name).split('.').collect();
    let number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match parts.iter().position(number) {
        Some(at) if at + 1 < parts.len() => {
            let words: Vec<&str> = parts[..at].iter().copied().filter(|w| !USUAL.contains(w)).collect();
            let layer = if words.is_empty() { "layer".to_owned() } else { words.join(".") };
            (Some(format!("{layer} {}", parts[at])), parts[at + 1..].join("."))
        }
        _ => (None, parts.join(".")),
    }
}

/// Tensors of one layer, kind or width.
struct Group {
    name: String,
    tensors: usize,
    bytes: u64,
    weights: u64,
    /// Sum of the divergences of its tensors.
    divergence: f64,
    histograms: Vec<[u64; measure::BINS]>,
    /// Sums of squares of the errors, relative to each tensor's weights.
    squares: f64,
}

impl Group {
    fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes as f64 / self.weights.max(1) as f64
    }

    /// Root mean square of its tensors' relative errors.
    fn relative_error(&self) -> f64 {
        (self.squares / self.tensors as f64).sqrt()
    }

    fn histogram(&self) -> Histogram {
        Histogram::new(&self.histograms)
    }
}

/// Rows by `key`, in the order in which each first comes; those without one are left out.
fn groups<'r, 'p: 'r>(rows: impl Iterator<Item = &'r Row<'p>>, key: impl Fn(&Row<'p>) -> Option<String>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let Some(name) = key(row) else { continue };
        let at = groups.iter().position(|g| g.name == name).unwrap_or_else(|| {
            let (tensors, bytes, weights, divergence, histograms, squares) = (0, 0, 0, 0.0, vec![], 0.0);
            groups.push(Group { name, tensors, bytes, weights, divergence, histograms, squares });
            groups.len() - 1
        });
        let group = &mut groups[at];
        group.tensors += 1;
        group.bytes += row.tensor.bytes;
        group.weights += row.weights();
        group.divergence += row.divergence().unwrap_or(0.0);
        group.histograms.extend(row.found.and_then(|f| f.errors.as_ref()).map(|errors| errors.histogram));
        group.squares += row.relative_error().powi(2);
    }
    groups
}

/// What the template shows.
#[derive(Template)]
#[template(path = "report.html")]
struct Page<'p> {
    meta: &'p Meta,
    /// Of the image.
    bytes: u64,
    findings: &'p Findings,
    rows: Vec<Row<'p>>,
    by_layer: Vec<Group>,
    by_kind: Vec<Group>,
    /// Bytes by width.
    widths: Vec<Share>,
    /// Histograms of matrices.
    errors: Vec<Group>,
    layer_bars: Vec<Bar>,
    costliest: Vec<Bar>,
    kind_bars: Vec<Bar>,
    heat: Heat,
}

/// The page of an image: what it says of itself, its bytes, and what was measured.
///
/// # Errors
/// [`ReportError::Page`].
pub fn page(meta: &Meta, bytes: u64, findings: &Findings) -> Result<String, ReportError> {
    let row = |(at, tensor)| Row::new(tensor, findings.tensors.get(at), meta.config.is_some());
    let rows: Vec<Row> = meta.tensors.iter().enumerate().map(row).collect();
    let measured = rows.iter().any(|row| row.divergence().is_some());
    let cost = |row: &Row| if measured { row.divergence() } else { Some(row.relative_error()) };
    let cost = |row: &Row| cost(row).filter(|cost| row.is_matrix() && *cost > 0.0);
    let layer = |row: &Row| row.layer.clone();
    let outside = |row: &Row| Some(row.layer.clone().unwrap_or_else(|| row.kind.clone()));
    let tensors: u64 = rows.iter().map(|row| row.tensor.bytes).sum();

    let mut by_kind = groups(rows.iter(), |row| Some(row.kind.clone()));
    by_kind.sort_by_key(|group| std::cmp::Reverse(group.bytes));
    let mut by_width = groups(rows.iter(), |row| Some(format!("{} bits", row.tensor.bits)));
    by_width.sort_by_key(|group| std::cmp::Reverse(group.bytes));
    let mut costly: Vec<&Row> = rows.iter().filter(|row| cost(row).is_some()).collect();
    costly.sort_by(|a, b| cost(b).unwrap_or(0.0).total_cmp(&cost(a).unwrap_or(0.0)));
    let costliest = costly.iter().take(10).map(|row| (row.label(), cost(row).unwrap_or(0.0)));
    let by_layer = groups(rows.iter(), layer);
    let layers = groups(rows.iter().filter(|row| row.divergence().is_some()), outside);
    let errors = groups(rows.iter().filter(|row| row.is_matrix()), |row| {
        row.found?.errors.as_ref().map(|_| format!("{}, {} bits", row.kind, row.tensor.bits))
    });
    let page = Page {
        meta,
        bytes,
        findings,
        by_layer,
        widths: charts::shares(by_width.into_iter().map(|g| (g.name, g.bytes)), tensors),
        errors,
        layer_bars: charts::bars(layers.into_iter().map(|g| (g.name, g.divergence)), number),
        costliest: charts::bars(costliest, number),
        kind_bars: charts::bars(by_kind.iter().take(12).map(|g| (g.name.clone(), g.bytes as f64)), |b| size(b as u64)),
        heat: Heat::new(rows.iter().filter_map(|row| Some((row.layer.as_deref()?, row.kind.as_str(), cost(row)?)))),
        by_kind,
        rows,
    };
    Ok(page.render()? + "\n")
}

/// Three digits that count.
fn number(x: impl Borrow<f64>) -> String {
    let x = *x.borrow();
    match x.abs() {
        0.0 => "0".into(),
        a if a >= 1000.0 => format!("{x:.0}"),
        a if a >= 0.0001 => {
            let digits = (2 - a.log10().floor() as i32).clamp(0, 6) as usize;
            format!("{x:.digits$}")
        }
        _ => format!("{x:.2e}"),
    }
}

/// A share, in per cent.
fn percent(share: impl Borrow<f64>) -> String {
    format!("{:.2} %", 100.0 * share.borrow())
}

/// Digits in groups of three.
fn thousands(n: impl Borrow<u64>) -> String {
    let digits = n.borrow().to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    groups.iter().map(|group| String::from_utf8_lossy(group)).collect::<Vec<_>>().join("\u{202f}")
}

/// A number of bytes for people.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let power = (0..units.len()).rev().find(|p| bytes >> (10 * p) > 0).unwrap_or(0);
    if power == 0 {
        return format!("{bytes} B");
    }
    format!("{:.1} {}", bytes as f64 / (1u64 << (10 * power)) as f64, units[power])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_where_a_tensor_is() {
        let placed = |name| {
            let (layer, kind) = place(name);
            (layer.unwrap_or_default(), kind)
        };
        let of = |layer: &str, kind: &str| (layer.to_owned(), kind.to_owned());
        assert_eq!(placed("model.layers.11.self_attn.q_proj.weight"), of("layer 11", "self_attn.q_proj"));
        assert_eq!(placed("transformer.h.0.attn.c_proj.bias"), of("layer 0", "attn.c_proj.bias"));
        assert_eq!(placed("model.encoder.layers.1.fc1.weight"), of("encoder 1", "fc1"));
        assert_eq!(placed("model.norm.weight"), of("", "model.norm"));
        assert_eq!(placed("conv.3"), of("", "conv.3"));
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!([0.0, 1234.4, 12.34, 0.01234, 0.000_012_34].map(number), ["0", "1234", "12.3", "0.0123", "1.23e-5"]);
        assert_eq!([7, 1234, 1_234_567].map(thousands), ["7", "1\u{202f}234", "1\u{202f}234\u{202f}567"]);
    }

    fn tensor(name: &str) -> TensorReport {
        TensorReport {
            name: name.into(),
            shape: vec![32, 32],
            bits: 4,
            hadamard: 0,
            relative_error: 0.1,
            fits_i32: true,
            row_bound: 1,
            bytes: 600,
        }
    }

    /// Names and texts come from files of others.
    #[test]
    fn hostile_names_stay_text() {
        const EVIL: &str = "</title><script>alert(\"1\")</script><img src=x onerror='alert(2)'>";
        let evil_tensor = format!("model.layers.0.{EVIL}");
        let meta = Meta {
            name: EVIL.into(),
            license: Some(EVIL.into()),
            source_sha256: EVIL.into(),
            quantizer: EVIL.into(),
            config: None,
            bits: 4,
            calibration_tokens: 7,
            calibration_samples: 0,
            patches: vec![],
            tensors: vec![tensor(&evil_tensor), tensor(EVIL)],
            parameters: 2048,
            bits_per_weight: 4.7,
        };
        let errors = Errors::between(&[1.0, 2.0], &[1.1, 2.0]);
        let found = Found { errors: Some(errors), rows: Some(0.1), divergence: Some(0.2) };
        let written = Written { same: EVIL.into(), first: Some(EVIL.into()), rest: EVIL.into() };
        let continuation =
            Continuation { prompt: EVIL.into(), float: written.clone(), integer: written, tokens: (1, 2) };
        let findings = Findings {
            tensors: vec![found.clone(), found],
            alone: 32,
            continuations: vec![continuation],
            ..Findings::default()
        };
        let html = page(&meta, 1200, &findings).unwrap();
        assert!(html.matches("&#60;script&#62;alert(&#34;1&#34;)").count() > 10, "{html}");
        for bad in ["<script", "<img", "onerror='", "alert(\"1\")"] {
            assert!(!html.contains(bad), "{bad}");
        }
    }

    #[test]
    fn nothing_measured_is_a_page_too() {
        let meta: Meta = serde_json::from_value(serde_json::json!({
            "name": "net", "license": null, "source_sha256": "", "quantizer": "", "bits": 8, "calibration_tokens": 0,
            "tensors": [], "parameters": 0, "bits_per_weight": 0.0,
        }))
        .unwrap();
        let html = page(&meta, 64, &Findings::default()).unwrap();
        assert!(html.contains("<h1>net</h1>") && !html.contains("NaN"), "{html}");
    }
}
