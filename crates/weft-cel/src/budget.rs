//! What evaluation may cost.
//!
//! Cost is counted in cel-go's units: one for each field or variable that is read and for each
//! call, more where a function looks at all of a text or a list. A unit takes some ten
//! nanoseconds, so that the limits below bound time.

/// What one evaluation may cost.
pub const CALL_LIMIT: u64 = 1_000_000;

/// What all evaluations for one object may cost together.
pub const OBJECT_LIMIT: u64 = 10_000_000;

/// What is left for an object.
#[derive(Clone, Debug)]
pub struct Budget {
    left: u64,
    spent: u64,
}

impl Budget {
    /// A budget of this many units, for an object [`OBJECT_LIMIT`].
    pub fn new(units: u64) -> Budget {
        Budget { left: units, spent: 0 }
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// What was spent so far, beyond the budget too.
    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// Takes the cost of one evaluation; false if there was not that much.
    pub(crate) fn take(&mut self, cost: u64) -> bool {
        self.spent = self.spent.saturating_add(cost);
        let enough = cost <= self.left;
        self.left = self.left.saturating_sub(cost);
        enough
    }
}

impl Default for Budget {
    fn default() -> Self {
        Budget::new(OBJECT_LIMIT)
    }
}
