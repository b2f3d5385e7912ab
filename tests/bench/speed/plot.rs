//! The roofline as a picture: how fast language models multiply, by how often they use a byte of weights that they read, under
//! what the machine can do.

use crate::llms;
use crate::machine::Limits;
use crate::runner::best;
use std::fmt::Write;

/// One figure of one runner.
pub struct Point {
    pub who: String,
    pub shape: String,
    pub threads: usize,
    /// A token at a time, or a prompt.
    pub decoding: bool,
    /// Multiply-accumulates for a byte of weights.
    pub intensity: f64,
    /// 10^9 multiply-accumulates a second.
    pub rate: f64,
}

/// Panels, one a number of threads: size in pixels, and where the first begins.
const SIDE: [f64; 2] = [420.0, 330.0];
const LEFT: f64 = 58.0;
const TOP: f64 = 34.0;
/// From one panel's left side to the next's.
const STEP: f64 = SIDE[0] + 64.0;
/// What the axes span: multiply-accumulates a byte, and 10^9 of them a second.
const X: [f64; 2] = [1.0, 512.0];
const Y: [f64; 2] = [2.0, 1024.0];
/// Colours of runners, told apart with any colour vision (Okabe and Ito), ours first.
const COLORS: [&str; 6] = ["#D55E00", "#E69F00", "#CC79A7", "#0072B2", "#56B4E9", "#009E73"];
/// Pixels from the left and from the top of a panel; what is beyond an axis is on its end.
fn place(x: f64, y: f64) -> (f64, f64) {
    let share = |v: f64, [from, to]: [f64; 2]| ((v / from).ln() / (to / from).ln()).clamp(0.0, 1.0);
    (SIDE[0] * share(x, X), SIDE[1] * (1.0 - share(y, Y)))
}

/// The picture.
pub fn svg(points: &[Point], limits: &Limits, threads: &[usize]) -> String {
    let names: Vec<&str> =
        llms::OURS.iter().map(|ours| ours.who).chain(llms::PEERS.iter().map(|peer| peer.who)).collect();
    // At least as wide as the legend.
    let width = (LEFT + STEP * threads.len() as f64 - 40.0).max(840.0);
    let height = TOP + SIDE[1] + 100.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#222\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (panel, threads) in threads.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate({} {TOP})\">", LEFT + STEP * panel as f64);
        axes(&mut out, *threads);
        roof(&mut out, best(&limits.bandwidth[threads]), best(&limits.peak[threads]));
        // Small marks lie on large ones.
        let mut points: Vec<&Point> = points.iter().filter(|p| p.threads == *threads).collect();
        points.sort_by(|a, b| radius(&b.shape).total_cmp(&radius(&a.shape)));
        points.into_iter().for_each(|point| mark(&mut out, point, &names));
        out.push_str("</g>\n");
    }
    legend(&mut out, &names);
    out.push_str("</svg>\n");
    out
}

/// Powers of two, each a line.
fn powers([from, to]: [f64; 2]) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(from), |x| Some(2.0 * x)).take_while(move |x| *x <= to)
}

fn axes(out: &mut String, threads: usize) {
    let [w, h] = SIDE;
    let many = if threads == 1 { "" } else { "s" };
    let _ = writeln!(out, "<text y=\"-12\" font-size=\"14\">{threads} thread{many}</text>");
    for x in powers(X) {
        let at = place(x, Y[0]).0;
        let _ = writeln!(out, "<path d=\"M{at:.1} 0V{h}\" stroke=\"#eee\"/>");
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{x}</text>", h + 16.0);
    }
    for y in powers(Y) {
        let at = place(X[0], y).1;
        let _ = writeln!(out, "<path d=\"M0 {at:.1}H{w}\" stroke=\"#eee\"/>");
        let _ = writeln!(out, "<text x=\"-6\" y=\"{:.1}\" text-anchor=\"end\">{y}</text>", at + 4.0);
    }
    let middle = w / 2.0;
    let _ = writeln!(
        out,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">multiply-accumulates for a byte of weights</text>",
        h + 34.0
    );
    let _ = writeln!(
        out,
        "<text transform=\"translate(-42 {}) rotate(-90)\" text-anchor=\"middle\">GMAC/s</text>",
        h / 2.0
    );
}

/// The machine's limits: `bandwidth` GB/s until `peak` GMAC/s; without a peak (NaN) only the first.
fn roof(out: &mut String, bandwidth: f64, peak: f64) {
    // Where the slope leaves the picture, or meets the peak.
    let bend = peak.min(Y[1]).min(bandwidth * X[1]) / bandwidth;
    let from = (Y[0] / bandwidth).max(X[0]);
    let ((x0, y0), (x1, y1)) = (place(from, bandwidth * from), place(bend, bandwidth * bend));
    let _ = write!(out, "<path d=\"M{x0:.1} {y0:.1}L{x1:.1} {y1:.1}");
    if peak.is_finite() {
        let _ = write!(out, "H{}", SIDE[0]);
    }
    out.push_str("\" fill=\"none\" stroke=\"#222\" stroke-width=\"1.5\"/>\n");
    let tilt = -((y0 - y1) / (x1 - x0)).atan().to_degrees();
    let (x, y) = ((x0 + x1) / 2.0, (y0 + y1) / 2.0);
    let _ = writeln!(
        out,
        "<text transform=\"translate({x:.1} {y:.1}) rotate({tilt:.1})\" y=\"-6\" text-anchor=\"middle\">{bandwidth:.0} \
         GB/s read</text>"
    );
    if peak.is_finite() {
        let (right, above) = (SIDE[0] - 4.0, y1 - 6.0);
        let _ =
            writeln!(out, "<text x=\"{right}\" y=\"{above:.1}\" text-anchor=\"end\">{peak:.0} GMAC/s of int8</text>");
    }
}

/// Radius of a mark: larger models have larger ones.
fn radius(shape: &str) -> f64 {
    match shape {
        "135M" => 3.0,
        "0.5B" => 4.5,
        _ => 6.0,
    }
}

/// A circle for decoding, a square for a prompt.
fn symbol(out: &mut String, (x, y): (f64, f64), r: f64, decoding: bool, fill: &str, title: &str) {
    let style = format!("fill=\"{fill}\" stroke=\"#fff\" stroke-width=\"0.8\"");
    let title = if title.is_empty() { String::new() } else { format!("<title>{title}</title>") };
    let _ = if decoding {
        writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\" {style}>{title}</circle>")
    } else {
        let (left, top, side) = (x - r, y - r, 2.0 * r);
        writeln!(out, "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{side}\" height=\"{side}\" {style}>{title}</rect>")
    };
}

fn mark(out: &mut String, point: &Point, names: &[&str]) {
    let Point { who, shape, threads, decoding, intensity, rate } = point;
    let which = names.iter().position(|name| name == who).unwrap_or(0);
    let what = if *decoding { "decode" } else { "prompt" };
    let title = format!("{who}, {shape}, {what}, {threads} threads: {rate:.1} GMAC/s at {intensity:.1} MAC/byte");
    symbol(out, place(*intensity, *rate), radius(shape), *decoding, COLORS[which % COLORS.len()], &title);
}

fn legend(out: &mut String, names: &[&str]) {
    let y = TOP + SIDE[1] + 62.0;
    let mut x = LEFT;
    for (name, color) in names.iter().zip(COLORS) {
        symbol(out, (x + 5.0, y - 4.0), 5.0, true, color, "");
        let _ = writeln!(out, "<text x=\"{}\" y=\"{y}\">{name}</text>", x + 16.0);
        x += 34.0 + 6.6 * name.len() as f64;
    }
    let (y, mut x) = (y + 24.0, LEFT);
    for (decoding, name) in [(true, "decoding"), (false, "a prompt")] {
        symbol(out, (x + 5.0, y - 4.0), 5.0, decoding, "#777", "");
        let _ = writeln!(out, "<text x=\"{}\" y=\"{y}\">{name}</text>", x + 16.0);
        x += 90.0;
    }
    for shape in ["135M", "0.5B", "1.2B"] {
        symbol(out, (x + 5.0, y - 4.0), radius(shape), true, "#777", "");
        let _ = writeln!(out, "<text x=\"{}\" y=\"{y}\">{shape}</text>", x + 16.0);
        x += 66.0;
    }
}
