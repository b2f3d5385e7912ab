//! How far embeddings are from their references: the angle that each has turned, and whether texts are still as near to each other.

use super::metrics::Divergence;
use serde::Serialize;

/// What a comparison of embeddings found.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Comparison {
    /// 1 - cosine of each embedding and its reference.
    pub cosine_distance: Divergence,
    /// Spearman's rank correlation of the cosines of all pairs of texts with those of their references.
    pub spearman: f64,
    /// Share of texts whose nearest other text is the same.
    pub neighbour_agreement: f64,
    /// Texts compared.
    pub texts: usize,
}

/// The cosine of the angle between two vectors; 0 if one has no length.
#[must_use]
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

/// Compares the embeddings of the same texts. `None` if there are fewer than three: of those, order says nothing.
#[must_use]
pub fn compare(references: &[Vec<f32>], found: &[Vec<f32>]) -> Option<Comparison> {
    let texts = references.len();
    let distances = references.iter().zip(found).map(|(a, b)| (1.0 - cosine(a, b)).max(0.0)).collect();
    let cosine_distance = Divergence::of(distances).filter(|_| texts > 2)?;
    let pairs = |all: &[Vec<f32>]| -> Vec<f64> {
        (0..texts).flat_map(|a| (0..a).map(move |b| (a, b))).map(|(a, b)| cosine(&all[a], &all[b])).collect()
    };
    let nearest = |all: &[Vec<f32>], text: usize| {
        let others = (0..texts).filter(|other| *other != text);
        others.map(|other| (cosine(&all[text], &all[other]), other)).max_by(|a, b| a.0.total_cmp(&b.0)).map(|n| n.1)
    };
    let same = (0..texts).filter(|text| nearest(references, *text) == nearest(found, *text)).count();
    let spearman = spearman(&pairs(references), &pairs(found));
    Some(Comparison { cosine_distance, spearman, neighbour_agreement: same as f64 / texts as f64, texts })
}

/// Spearman's rank correlation; equal values share the mean of their ranks.
#[must_use]
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt().max(1e-12)
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut below = 0;
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = below as f64 + (equal.len() as f64 + 1.0) / 2.0;
        equal.iter().for_each(|at| ranks[*at] = rank);
        below += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_by_hand() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert!((spearman(&[1.0, 2.0, 3.0], &[10.0, 30.0, 20.0]) - 0.5).abs() < 1e-12);
        assert!((spearman(&[1.0, 2.0, 3.0], &[9.0, 8.0, 7.0]) + 1.0).abs() < 1e-12);
    }

    #[test]
    fn turned_by_hand() {
        let references = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]].map(Vec::from);
        // The second has come nearer to the third than to the first.
        let found = [[2.0, 0.0], [0.6, 0.8], [0.0, 0.5]].map(Vec::from);
        let same = compare(&references, &references).unwrap();
        assert!(same.cosine_distance.max < 1e-12 && (same.spearman - 1.0).abs() < 1e-12);
        assert!((same.neighbour_agreement - 1.0).abs() < 1e-12);
        let other = compare(&references, &found).unwrap();
        assert!((other.cosine_distance.max - 0.04).abs() < 1e-6, "{other:?}");
        assert!((other.neighbour_agreement - 2.0 / 3.0).abs() < 1e-12 && other.spearman < 0.6, "{other:?}");
        assert!(compare(&references[..2], &found[..2]).is_none());
    }
}
