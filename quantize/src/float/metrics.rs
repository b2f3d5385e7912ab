//! How far a candidate is from its reference: perplexity, KL divergence, agreement.
//!
//! Both models walk the same text in lock step; a position's two rows of logits are compared and dropped. What is kept
//! is one number a position.

use crate::calibrate::Text;
use mote_host::HostError;
use mote_runtime::Session;
use serde::Serialize;

/// Accumulates over positions.
#[derive(Clone, Debug, Default)]
pub struct LockStep {
    divergences: Vec<f64>,
    reference_nll: f64,
    candidate_nll: f64,
    predicted: usize,
    agreed: usize,
}

/// Statistics of a distance, such as the KL divergence in nats.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Divergence {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub median: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

impl Divergence {
    /// Those of these values; `None` if there are none.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        let n = values.len();
        values.sort_by(f64::total_cmp);
        let quantile = |q: f64| values.get(((n.max(1) - 1) as f64 * q).round() as usize).copied();
        let mean = values.iter().sum::<f64>() / n as f64;
        Some(Self { mean, median: quantile(0.5)?, p99: quantile(0.99)?, max: quantile(1.0)? })
    }
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Comparison {
    /// KL(reference || candidate) by position.
    pub kld: Divergence,
    /// exp(mean negative log likelihood) of the candidate.
    pub perplexity: f64,
    /// The same of the reference.
    pub reference_perplexity: f64,
    /// Share of positions whose most likely token is the same.
    pub top1_agreement: f64,
    /// Positions compared.
    pub positions: usize,
}

/// Natural logarithms of the softmax of `logits`.
#[must_use]
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - top).exp()).sum();
    logits.iter().map(|l| f64::from(l - top) - sum.ln()).collect()
}

fn argmax(values: impl Iterator<Item = f64>) -> usize {
    values.enumerate().fold((0, f64::NEG_INFINITY), |best, (i, v)| if v > best.1 { (i, v) } else { best }).0
}

/// The token of the largest logit; the first of equals.
#[must_use]
pub fn likeliest(logits: &[f32]) -> u32 {
    argmax(logits.iter().map(|l| f64::from(*l))) as u32
}

/// What an image gives at each position of a text, in integers `batch` tokens at a time: rows of logits.
///
/// # Errors
/// The session's, of a text that is longer than its context say.
pub fn integer_logits(session: &mut Session<'_>, text: &Text, batch: u32) -> Result<Vec<Vec<f32>>, HostError> {
    session.rewind(0);
    if !text.source.is_empty() {
        session.encode(&text.source)?;
    }
    let unit = 2f32.powi(-(session.logits_frac_bits() as i32));
    let mut rows = Vec::with_capacity(text.tokens.len());
    for tokens in text.tokens.chunks(batch as usize) {
        session.prefill(tokens)?;
        for row in 0..tokens.len() as u32 {
            rows.push(session.logits(row)?.iter().map(|l| *l as f32 * unit).collect());
        }
    }
    Ok(rows)
}

impl LockStep {
    /// Compares one position; `next` is the token that follows in the text, if there is one.
    pub fn push(&mut self, reference: &[f32], candidate: &[f32], next: Option<u32>) {
        let (p, q) = (log_softmax(reference), log_softmax(candidate));
        let divergence: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
        self.divergences.push(divergence.max(0.0));
        self.agreed += usize::from(argmax(p.iter().copied()) == argmax(q.iter().copied()));
        if let Some(next) = next {
            self.reference_nll -= p[next as usize];
            self.candidate_nll -= q[next as usize];
            self.predicted += 1;
        }
    }

    /// Positions compared so far.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.divergences.len()
    }

    /// The result so far; `None` before the first position.
    #[must_use]
    pub fn finish(&self) -> Option<Comparison> {
        let n = self.divergences.len();
        let predicted = self.predicted.max(1) as f64;
        Some(Comparison {
            kld: Divergence::of(self.divergences.clone())?,
            perplexity: (self.candidate_nll / predicted).exp(),
            reference_perplexity: (self.reference_nll / predicted).exp(),
            top1_agreement: self.agreed as f64 / n as f64,
            positions: n,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::LockStep;

    #[test]
    fn by_hand() {
        let mut steps = LockStep::default();
        let ln = |p: [f64; 2]| p.map(|p| p.ln() as f32);
        steps.push(&ln([0.5, 0.5]), &ln([0.25, 0.75]), Some(0));
        steps.push(&ln([0.9, 0.1]), &ln([0.9, 0.1]), Some(1));
        let found = steps.finish().unwrap();
        let expected = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((found.kld.max - expected).abs() < 1e-6 && (found.kld.mean - expected / 2.0).abs() < 1e-6);
        assert!((found.perplexity - (0.25f64 * 0.1).powf(-0.5)).abs() < 1e-4);
        assert!((found.reference_perplexity - (0.5f64 * 0.1).powf(-0.5)).abs() < 1e-4);
        assert!((found.top1_agreement - 0.5).abs() < 1e-9);
    }
}
