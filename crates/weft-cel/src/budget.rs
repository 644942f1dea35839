//! What evaluation may cost.
//!
//! Cost is counted in cel-go's units: one for each field or variable that is read and for each
//! call, more where a function looks at all of a text or a list. A unit takes some ten
//! nanoseconds, so that the limits below bound time.

use crate::{error::EvalError, regex::Pattern};
use std::{collections::HashMap, sync::Arc};

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

/// Elements that comparisons and walks may visit in one evaluation. Cost does not see inside of
/// lists of lists; values that share their parts can be walked for ever.
pub(crate) const VISITS_MAX: u64 = 20 * CALL_LIMIT;
/// Patterns that one evaluation compiles at the price of cel-go; further ones cost more.
const PATTERNS_FREE: usize = 8;
/// What each further one costs: it takes up to milliseconds.
const PATTERN_COST: u64 = 10_000;
/// Bytes of text that a unit of cost pays for.
const BYTES_PER_UNIT: u64 = 10;

/// Counts what one evaluation costs.
#[derive(Default)]
pub(crate) struct Meter {
    cost: u64,
    visits: u64,
    patterns: HashMap<Box<str>, Arc<Pattern>>,
}

impl Meter {
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// Adds to the cost.
    pub fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > CALL_LIMIT { Err(EvalError::CallLimit) } else { Ok(()) }
    }

    /// Takes back what a step added that is free where it stands.
    pub fn refund(&mut self, cost: u64) {
        self.cost = self.cost.saturating_sub(cost);
    }

    /// Counts visits of elements.
    pub fn burn(&mut self, visits: u64) -> Result<(), EvalError> {
        self.visits = self.visits.saturating_add(visits);
        if self.visits > VISITS_MAX { Err(EvalError::CallLimit) } else { Ok(()) }
    }

    /// Refuses to make a list of more elements than the rest of the budget pays for.
    pub fn room_for(&self, elements: u64) -> Result<(), EvalError> {
        if elements > CALL_LIMIT - self.cost.min(CALL_LIMIT) {
            return Err(EvalError::CallLimit);
        }
        Ok(())
    }

    /// Refuses to make a text of more bytes than the rest of the budget pays for.
    pub fn room_for_text(&self, bytes: u64) -> Result<(), EvalError> {
        self.room_for(bytes / BYTES_PER_UNIT)
    }

    /// A pattern that is known only now.
    pub fn pattern(&mut self, text: &str) -> Result<Arc<Pattern>, EvalError> {
        if let Some(pattern) = self.patterns.get(text) {
            return Ok(pattern.clone());
        }
        if self.patterns.len() >= PATTERNS_FREE {
            self.charge(PATTERN_COST)?;
        }
        let pattern = Arc::new(Pattern::new(text).map_err(EvalError::text)?);
        self.patterns.insert(text.into(), pattern.clone());
        Ok(pattern)
    }
}
