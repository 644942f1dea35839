//! The steps of a roll-out: how large each ReplicaSet shall be next.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::{DESIRED, MAX, Rollout, available, size, total_of};
use crate::action::Plan;
use crate::pods;
use crate::store::Object;

impl Rollout<'_> {
    /// The size of the new ReplicaSet while old ones still have pods: up to the surge.
    pub(super) fn new_replicas(&self, current: i32) -> i32 {
        let all = total_of(self.all().map(|set| size(set)));
        let room = self.wanted.saturating_add(self.max_surge).saturating_sub(all);
        if room <= 0 {
            return current;
        }
        current.saturating_add(room.min(self.wanted.saturating_sub(current)))
    }

    /// A rolling update's step.
    pub(super) fn roll(&self, new: &Arc<ReplicaSet>, plan: &mut Plan) {
        let current = size(new);
        let target = match current {
            current if current >= self.wanted => self.wanted,
            current => self.new_replicas(current),
        };
        self.scale(new, target, plan);
        if target != current {
            return;
        }
        let old = total_of(self.old.iter().map(|set| size(set)));
        if old == 0 {
            return;
        }
        let least = self.wanted.saturating_sub(self.max_unavailable);
        // New pods that are not available yet may still fail: old ones make up for them.
        let mut budget = old.saturating_add(available(new)).saturating_sub(least);
        if budget <= 0 {
            return;
        }
        // Broken old pods go first, they serve nobody.
        let mut sizes: Vec<i32> = self.old.iter().map(|set| size(set)).collect();
        for (set, size) in self.old.iter().zip(&mut sizes) {
            let broken = size.saturating_sub(available(set)).max(0).min(budget);
            *size -= broken;
            budget -= broken;
        }
        let serving = total_of(self.all().map(|set| available(set)));
        let mut spare = serving.saturating_sub(least).max(0).min(budget.max(0));
        for size in &mut sizes {
            let surplus = (*size).min(spare);
            *size -= surplus;
            spare -= surplus;
        }
        for (set, next) in self.old.iter().zip(sizes) {
            if next != size(set) {
                self.scale(set, next, plan);
            }
        }
    }

    /// Recreate: takes the old down, and says whether any of it is still there.
    pub(super) fn old_still_there(&self, plan: &mut Plan) -> bool {
        for set in self.old.iter().filter(|set| size(set) > 0) {
            self.scale(set, 0, plan);
        }
        !plan.actions.is_empty()
            || self.old.iter().any(|set| {
                let mut held = self.world.pods.controlled_by(set.uid());
                held.any(|pod| !pods::finished(pod))
            })
    }

    /// Whether the Deployment was scaled since its ReplicaSets got their sizes.
    pub(super) fn is_scaling(&self) -> bool {
        let wanted = self.wanted.to_string();
        self.all()
            .filter(|set| size(set) > 0)
            .any(|set| set.annotation(DESIRED).is_some_and(|desired| desired != wanted))
    }

    /// Scales in the middle of a roll-out in proportion, so that the risk stays spread.
    pub(super) fn rescale(&self, plan: &mut Plan) {
        let mut active: Vec<&Arc<ReplicaSet>> = self.all().filter(|set| size(set) > 0).collect();
        if let [only] = active.as_slice() {
            return self.scale(only, self.wanted, plan);
        }
        let saturated = |new: &Arc<ReplicaSet>| {
            size(new) == self.wanted
                && available(new) == self.wanted
                && new.annotation(DESIRED) == Some(self.wanted.to_string().as_str())
        };
        if self.new.as_ref().is_some_and(saturated) {
            for set in self.old.iter().filter(|set| size(set) > 0) {
                self.scale(set, 0, plan);
            }
            return;
        }
        if self.recreate() {
            for set in active {
                let next = size(set);
                self.scale(set, next, plan);
            }
            return;
        }
        let allowed = if self.wanted > 0 { self.wanted.saturating_add(self.max_surge) } else { 0 };
        let total = total_of(active.iter().map(|set| size(set)));
        let mut left = allowed.saturating_sub(total);
        // The largest first; of the same size the newer first when growing.
        active
            .sort_by_key(|set| (Reverse(size(set)), set.created_seconds(), set.name().to_owned()));
        if left > 0 {
            active.sort_by_key(|set| (Reverse(size(set)), Reverse(set.created_seconds())));
        }
        let mut next: Vec<i32> = Vec::new();
        for set in &active {
            let part = self.proportion(set, allowed);
            let part = if left > 0 { part.clamp(0, left) } else { part.clamp(left, 0) };
            left -= part;
            next.push(size(set).saturating_add(part));
        }
        if let Some(first) = next.first_mut() {
            *first = first.saturating_add(left).max(0);
        }
        for (set, next) in active.into_iter().zip(next) {
            self.scale(set, next, plan);
        }
    }

    fn proportion(&self, set: &ReplicaSet, allowed: i32) -> i32 {
        // Wide: the annotation is anybody's to write.
        let before: i128 = set
            .annotation(MAX)
            .and_then(|text| text.parse::<i64>().ok())
            .filter(|max| *max > 0)
            .map(i128::from)
            .unwrap_or_else(|| i128::from(self.wanted.max(1)));
        let size = i128::from(size(set));
        let scaled = (2 * size * i128::from(allowed) + before) / (2 * before);
        i32::try_from(scaled - size).unwrap_or(0)
    }
}
