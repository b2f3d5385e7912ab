//! Numbers of the page's charts, as the template draws them: lengths in units of its SVG.

use super::measure::BINS;
use super::number;

/// Where bars begin.
const START: f64 = 138.0;
/// Length of the longest bar.
const LONGEST: f64 = 150.0;
/// Letters of a bar's label that have room.
const LABEL: usize = 21;

/// A bar with its name and number.
pub(super) struct Bar {
    /// In full.
    pub name: String,
    /// What there is room for.
    pub label: String,
    pub value: String,
    pub length: String,
    /// Where the value is written.
    pub value_at: String,
}

/// Bars in units of the largest value.
pub(super) fn bars(values: impl Iterator<Item = (String, f64)>, show: impl Fn(f64) -> String) -> Vec<Bar> {
    let values: Vec<(String, f64)> = values.collect();
    let most = values.iter().map(|(_, value)| *value).fold(0f64, f64::max);
    let bar = |(name, value): (String, f64)| {
        let length = LONGEST * if most > 0.0 { value / most } else { 0.0 };
        let (label, value_at) = (shortened(&name), format!("{:.1}", START + length + 4.0));
        Bar { label, value: show(value), length: format!("{length:.1}"), value_at, name }
    };
    values.into_iter().map(bar).collect()
}

/// The beginning and the end of a name.
fn shortened(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= LABEL {
        return name.to_owned();
    }
    let (first, last) = (&letters[..LABEL / 3], &letters[letters.len() + 1 + LABEL / 3 - LABEL..]);
    first.iter().chain(&['…']).chain(last).collect()
}

/// A part of a bar that is the whole.
pub(super) struct Share {
    pub name: String,
    pub bytes: u64,
    pub percent: f64,
}

/// Parts of `total` bytes.
pub(super) fn shares(parts: impl Iterator<Item = (String, u64)>, total: u64) -> Vec<Share> {
    parts.map(|(name, bytes)| Share { name, bytes, percent: 100.0 * bytes as f64 / total.max(1) as f64 }).collect()
}

/// An error histogram as an SVG path, `BINS` wide and 30 high.
pub(super) struct Histogram {
    pub path: String,
}

impl Histogram {
    /// The sum of several.
    pub fn new(all: &[[u64; BINS]]) -> Self {
        let sums: Vec<u64> = (0..BINS).map(|bar| all.iter().map(|bars| bars[bar]).sum()).collect();
        let most = sums.iter().copied().max().unwrap_or(0).max(1);
        let bar = |(at, sum): (usize, &u64)| {
            let height = 30.0 * *sum as f64 / most as f64;
            format!("M{at} 30V{:.1}h1V30z", 30.0 - height)
        };
        Self { path: sums.iter().enumerate().filter(|(_, sum)| **sum > 0).map(bar).collect() }
    }
}

/// A number, and how strong its cell's colour is, from 0 to 1.
type Cell = (String, String);

/// Costs of matrices, layers down and kinds across.
pub(super) struct Heat {
    pub kinds: Vec<String>,
    /// A layer, and what there is of each kind.
    pub layers: Vec<(String, Vec<Option<Cell>>)>,
}

impl Heat {
    /// From layers, kinds and costs.
    pub fn new<'n>(costs: impl Iterator<Item = (&'n str, &'n str, f64)>) -> Self {
        let costs: Vec<(&str, &str, f64)> = costs.collect();
        let names = |name: &dyn Fn(&(&'n str, &'n str, f64)) -> &'n str| {
            let mut names: Vec<&str> = Vec::new();
            for cost in &costs {
                if !names.contains(&name(cost)) {
                    names.push(name(cost));
                }
            }
            names
        };
        let (layers, kinds) = (names(&|c| c.0), names(&|c| c.1));
        let logs = || costs.iter().map(|(.., cost)| cost.ln());
        let (least, most) = (logs().fold(f64::INFINITY, f64::min), logs().fold(f64::NEG_INFINITY, f64::max));
        let cell = |layer: &str, kind: &str| {
            let (.., cost) = costs.iter().find(|(l, k, _)| (*l, *k) == (layer, kind))?;
            let dark = if most > least { (cost.ln() - least) / (most - least) } else { 0.0 };
            Some((number(*cost), format!("{dark:.2}")))
        };
        let line = |layer: &&str| (layer.to_string(), kinds.iter().map(|kind| cell(layer, kind)).collect());
        Self { layers: layers.iter().map(line).collect(), kinds: kinds.iter().map(|k| k.to_string()).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let made = bars([("a".to_owned(), 2.0), ("b".to_owned(), 1.0)].into_iter(), number);
        assert_eq!([&made[0].length, &made[1].length], ["150.0", "75.0"]);
        assert_eq!(shortened("model.decoder.layers.0.fc1.weight"), "model.d….0.fc1.weight");
        let parts = shares([("a".to_owned(), 3), ("b".to_owned(), 1)].into_iter(), 4);
        assert_eq!([parts[0].percent, parts[1].percent], [75.0, 25.0]);
        let mut bars = [0; BINS];
        (bars[1], bars[3]) = (4, 2);
        assert_eq!(Histogram::new(&[bars, bars]).path, "M1 30V0.0h1V30zM3 30V15.0h1V30z");
        let heat = Heat::new([("0", "q", 0.1), ("0", "k", 0.01), ("1", "q", 0.001)].into_iter());
        assert_eq!(heat.kinds, ["q", "k"]);
        let dark = |layer: usize, kind: usize| heat.layers[layer].1[kind].as_ref().map(|(_, dark)| dark.as_str());
        assert_eq!([dark(0, 0), dark(0, 1), dark(1, 0), dark(1, 1)], [Some("1.00"), Some("0.50"), Some("0.00"), None]);
    }
}
