//! Medians and their spread.

/// Median and the interval that holds the middle 95 % of the samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// 2.5th percentile.
    pub low: f64,
    /// Median.
    pub median: f64,
    /// 97.5th percentile.
    pub high: f64,
}

impl Spread {
    /// Of at least one sample.
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |q: f64| {
            let position = q * (sorted.len() as f64 - 1.0);
            let (below, above) = (position.floor() as usize, position.ceil() as usize);
            sorted[below] + (sorted[above] - sorted[below]) * position.fract()
        };
        Self { low: at(0.025), median: at(0.5), high: at(0.975) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} [{:.2}, {:.2}]", self.median, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let s = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!(s.median, 2.0);
        assert!(s.low >= 1.0 && s.high <= 3.0 && s.low < s.high);
    }
}
