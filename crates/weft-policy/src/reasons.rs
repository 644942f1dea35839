//! What the numbers of reasons stand for, shared with those who read them while planning goes on.

use crate::{Reason, numbers::Numbers};
use std::{collections::HashMap, sync::Arc};
use weft_model::Map;

/// How many reasons that nobody refers to any more can still be read: flows that were judged by
/// them, and events about those, come late.
const KEPT: usize = 1024;

/// Reasons by number, as they were at one moment. Copying it costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasons(Map<u32, Arc<Reason>>);

impl Reasons {
    /// What a number stands for, or stood for lately.
    pub fn get(&self, number: u32) -> Option<&Reason> {
        self.0.get(&number).map(AsRef::as_ref)
    }

    /// All of them, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Reason)> {
        self.0.iter().map(|(n, r)| (*n, r.as_ref()))
    }
}

/// Gives reasons their numbers.
#[derive(Debug)]
pub(crate) struct Registry {
    numbers: Numbers,
    known: HashMap<Arc<Reason>, (u32, usize)>,
    table: Reasons,
}

impl Registry {
    /// A registry that begins with this number.
    pub fn new(first: u32) -> Self {
        Self { numbers: Numbers::new(first), known: HashMap::new(), table: Reasons::default() }
    }

    /// The number of a reason, for one who releases it later.
    pub fn acquire(&mut self, reason: Reason, now: u64) -> u32 {
        if let Some((number, users)) = self.known.get_mut(&reason) {
            *users += 1;
            return *number;
        }
        let (number, reason) = (self.numbers.take(now), Arc::new(reason));
        self.table.0.insert(number, reason.clone());
        self.known.insert(reason, (number, 1));
        number
    }

    /// One fewer refers to it.
    pub fn release(&mut self, number: u32, now: u64) {
        let Some(reason) = self.table.0.get(&number) else { return };
        let Some((_, users)) = self.known.get_mut(reason) else { return };
        *users -= 1;
        if *users == 0 {
            self.known.remove(reason);
            self.numbers.give_back(number, now);
            if let Some(old) = self.numbers.given_back(KEPT) {
                self.table.0.remove(&old);
            }
        }
    }

    /// What the numbers stand for now.
    pub fn table(&self) -> &Reasons {
        &self.table
    }

    /// How many reasons somebody refers to.
    pub fn len(&self) -> usize {
        self.known.len()
    }
}
