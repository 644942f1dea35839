//! An ordered map that is cheap to copy and cheap to compare: copies share what they have in
//! common, and [`Map::diff`] skips what two of them share.
//!
//! It is a B+ tree whose nodes are shared by [`Arc`]. A write copies the nodes from the root to
//! one leaf, and only those that somebody else holds too: while nobody does (a first list),
//! it changes them in place. So the next snapshot costs what changed, and what changed is found
//! by comparing two snapshots, in time proportional to the difference; nobody has to keep
//! flags.

use std::{borrow::Borrow, cmp::Ordering, fmt, ops::Index, sync::Arc};

/// Entries of a leaf and children of an inner node, at most. A write copies about this many
/// entries a level: large enough for three levels at 30,000 entries, small enough for a
/// microsecond.
const WIDTH_MAX: usize = 32;
/// A node with fewer is joined with a neighbour where both fit well into one.
const WIDTH_MIN: usize = 8;

/// See the module's documentation.
pub struct Map<K, V> {
    root: Option<Arc<Node<K, V>>>,
    len: usize,
}

#[derive(Clone)]
enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Inner {
        /// 1 where the children are leaves.
        height: u8,
        /// The keys of a child are below the bound of the next. The first bound is never read:
        /// there is nothing before it.
        children: Vec<Child<K, V>>,
    },
}

/// What an insertion left over: the right half of a node that became too wide.
type Split<K, V> = Option<Child<K, V>>;

/// A node with a lower bound of its keys.
type Child<K, V> = (K, Arc<Node<K, V>>);

impl<K, V> Node<K, V> {
    fn width(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner { children, .. } => children.len(),
        }
    }

    fn height(&self) -> u8 {
        match self {
            Self::Leaf(_) => 0,
            Self::Inner { height, .. } => *height,
        }
    }
}

/// The child that `key` belongs to.
fn child_of<K: Borrow<Q>, N, Q: Ord + ?Sized>(children: &[(K, N)], key: &Q) -> usize {
    children[1..].partition_point(|(bound, _)| bound.borrow() <= key)
}

fn position<K: Borrow<Q>, V, Q: Ord + ?Sized>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    entries.binary_search_by(|(k, _)| k.borrow().cmp(key))
}

/// Where to split: in the middle, except after an append, because what comes in order (a list
/// of the API) shall leave full nodes behind.
fn split_at(width: usize, inserted: usize) -> usize {
    if inserted + 1 == width { width - 1 } else { width / 2 }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    fn insert(self: &mut Arc<Self>, key: K, value: V) -> (Option<V>, Split<K, V>) {
        match Arc::make_mut(self) {
            Self::Leaf(entries) => match position(entries, &key) {
                Ok(at) => (Some(std::mem::replace(&mut entries[at].1, value)), None),
                Err(at) => {
                    entries.insert(at, (key, value));
                    if entries.len() <= WIDTH_MAX {
                        return (None, None);
                    }
                    let right = entries.split_off(split_at(entries.len(), at));
                    (None, Some((right[0].0.clone(), Arc::new(Self::Leaf(right)))))
                }
            },
            Self::Inner { height, children } => {
                let at = child_of(children, &key);
                let (old, split) = Self::insert(&mut children[at].1, key, value);
                let Some(split) = split else { return (old, None) };
                children.insert(at + 1, split);
                if children.len() <= WIDTH_MAX {
                    return (old, None);
                }
                let right = children.split_off(split_at(children.len(), at + 1));
                let bound = right[0].0.clone();
                (old, Some((bound, Arc::new(Self::Inner { height: *height, children: right }))))
            }
        }
    }

    /// Removes a key that is there.
    fn remove<Q: Ord + ?Sized>(self: &mut Arc<Self>, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match Arc::make_mut(self) {
            Self::Leaf(entries) => position(entries, key).ok().map(|at| entries.remove(at).1),
            Self::Inner { children, .. } => {
                let at = child_of(children, key);
                let old = Self::remove(&mut children[at].1, key);
                let width = children[at].1.width();
                if width == 0 {
                    children.remove(at);
                } else if width < WIDTH_MIN {
                    join(children, at);
                }
                old
            }
        }
    }

    fn get_mut<Q: Ord + ?Sized>(self: &mut Arc<Self>, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        match Arc::make_mut(self) {
            Self::Leaf(entries) => {
                let at = position(entries, key).ok()?;
                Some(&mut entries[at].1)
            }
            Self::Inner { children, .. } => {
                let at = child_of(children, key);
                Self::get_mut(&mut children[at].1, key)
            }
        }
    }
}

/// Joins a narrow child with a neighbour, where there is room left for a few more.
fn join<K: Clone, V: Clone>(children: &mut Vec<Child<K, V>>, at: usize) {
    let fits = |left: usize| {
        let widths = children.get(left).zip(children.get(left + 1));
        widths.is_some_and(|(l, r)| l.1.width() + r.1.width() <= WIDTH_MAX - WIDTH_MIN)
    };
    let Some(left) = [Some(at), at.checked_sub(1)].into_iter().flatten().find(|l| fits(*l)) else {
        return;
    };
    let (bound, right) = children.remove(left + 1);
    match (Arc::make_mut(&mut children[left].1), &*right) {
        (Node::Leaf(l), Node::Leaf(r)) => l.extend_from_slice(r),
        (Node::Inner { children: l, .. }, Node::Inner { children: r, .. }) => {
            let first = l.len();
            l.extend_from_slice(r);
            // What was the first of its node is not any more: from now on its bound is read.
            l[first].0 = bound;
        }
        _ => unreachable!("invariant: children of one node are of one height"),
    }
}

impl<K, V> Map<K, V> {
    /// An empty map.
    pub const fn new() -> Self {
        Self { root: None, len: 0 }
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries in the order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        let mut iter = Iter { above: Vec::new(), leaf: [].iter(), left: self.len };
        if let Some(root) = &self.root {
            iter.descend(root);
        }
        iter
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.iter().map(|(k, _)| k)
    }

    /// The values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|(_, v)| v)
    }

    /// Whether both are the same map, not merely equal ones: one comparison of pointers.
    pub fn same(&self, other: &Self) -> bool {
        match (&self.root, &other.root) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }
}

impl<K: Ord, V> Map<K, V> {
    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(entries) => return Some(&entries[position(entries, key).ok()?].1),
                Node::Inner { children, .. } => node = &children[child_of(children, key)].1,
            }
        }
    }

    /// Whether a key is there.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// What is different in `next`, in the order of the keys; parts that both share are not
    /// looked at.
    pub fn diff<'a>(&'a self, next: &'a Self) -> Diff<'a, K, V> {
        let stack = |map: &'a Self| map.root.iter().map(Item::Node).collect();
        Diff { before: stack(self), after: stack(next) }
    }
}

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    /// Stores a value; returns the one that it replaces.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(root) = &mut self.root else {
            self.root = Some(Arc::new(Node::Leaf(vec![(key, value)])));
            self.len = 1;
            return None;
        };
        let (old, split) = Node::insert(root, key, value);
        if let Some((bound, right)) = split {
            let height = root.height() + 1;
            // The first bound is never read, so any key will do.
            let children = vec![(bound.clone(), root.clone()), (bound, right)];
            *root = Arc::new(Node::Inner { height, children });
        }
        self.len += usize::from(old.is_none());
        old
    }

    /// Removes a key; returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // Looked for first, so that the removal of what is absent copies nothing.
        self.get(key)?;
        let root = self.root.as_mut()?;
        let old = Node::remove(root, key);
        self.len -= usize::from(old.is_some());
        while let Some(only) = match &**root {
            Node::Inner { children, .. } if children.len() == 1 => Some(children[0].1.clone()),
            _ => None,
        } {
            *root = only;
        }
        if root.width() == 0 {
            self.root = None;
        }
        old
    }

    /// The value of a key, to be changed. Copies the way to it also where nothing is changed
    /// then.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        if !self.contains_key(key) {
            return None;
        }
        Node::get_mut(self.root.as_mut()?, key)
    }

    /// The value of a key, to be changed; the default is stored where there is none.
    pub fn get_mut_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        if !self.contains_key(&key) {
            self.insert(key.clone(), V::default());
        }
        self.get_mut(&key).expect("invariant: it was stored just now")
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone(), len: self.len }
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Map<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.diff(other).next().is_none()
    }
}

impl<K: Ord, V: Eq> Eq for Map<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Map<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        map.extend(entries);
        map
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Map<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for Map<K, V> {
    type Output = V;
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("no entry for this key")
    }
}

impl<'a, K, V> IntoIterator for &'a Map<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The entries of a [`Map`] in the order of their keys.
pub struct Iter<'a, K, V> {
    /// What is left of the inner nodes above the leaf.
    above: Vec<std::slice::Iter<'a, Child<K, V>>>,
    leaf: std::slice::Iter<'a, (K, V)>,
    left: usize,
}

impl<'a, K, V> Iter<'a, K, V> {
    fn descend(&mut self, mut node: &'a Node<K, V>) {
        loop {
            match node {
                Node::Leaf(entries) => {
                    self.leaf = entries.iter();
                    return;
                }
                Node::Inner { children, .. } => {
                    let mut rest = children.iter();
                    let Some((_, first)) = rest.next() else { return };
                    self.above.push(rest);
                    node = first;
                }
            }
        }
    }
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self { above: self.above.clone(), leaf: self.leaf.clone(), left: self.left }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                self.left -= 1;
                return Some((key, value));
            }
            match self.above.last_mut()?.next() {
                Some((_, node)) => self.descend(node),
                None => {
                    self.above.pop();
                }
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}

/// One key whose value is not the same in two maps; at least one of the values is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference<'a, K, V> {
    /// The key.
    pub key: &'a K,
    /// Its value in the older map.
    pub before: Option<&'a V>,
    /// Its value in the newer one.
    pub after: Option<&'a V>,
}

/// What is still to be compared: whole subtrees, and entries of those that were opened.
enum Item<'a, K, V> {
    Node(&'a Arc<Node<K, V>>),
    Entry(&'a (K, V)),
}

/// The differences of two maps in the order of the keys.
pub struct Diff<'a, K, V> {
    /// What comes next is last.
    before: Vec<Item<'a, K, V>>,
    after: Vec<Item<'a, K, V>>,
}

/// Replaces the node on top by what is in it.
fn open<'a, K, V>(stack: &mut Vec<Item<'a, K, V>>) {
    match stack.pop() {
        Some(Item::Node(node)) => match &**node {
            Node::Leaf(entries) => stack.extend(entries.iter().rev().map(Item::Entry)),
            Node::Inner { children, .. } => {
                stack.extend(children.iter().rev().map(|(_, child)| Item::Node(child)));
            }
        },
        Some(entry) => stack.push(entry),
        None => {}
    }
}

impl<'a, K: Ord, V: PartialEq> Iterator for Diff<'a, K, V> {
    type Item = Difference<'a, K, V>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (a, b) = match (self.before.last(), self.after.last()) {
                (Some(Item::Node(a)), Some(Item::Node(b))) if Arc::ptr_eq(a, b) => {
                    self.before.pop();
                    self.after.pop();
                    continue;
                }
                // The higher one is opened first, so that equal heights meet again.
                (Some(Item::Node(a)), Some(Item::Node(b))) => {
                    let (a, b) = (a.height(), b.height());
                    if a >= b {
                        open(&mut self.before);
                    }
                    if b >= a {
                        open(&mut self.after);
                    }
                    continue;
                }
                (Some(Item::Node(_)), _) => {
                    open(&mut self.before);
                    continue;
                }
                (_, Some(Item::Node(_))) => {
                    open(&mut self.after);
                    continue;
                }
                (Some(Item::Entry(a)), Some(Item::Entry(b))) => match a.0.cmp(&b.0) {
                    Ordering::Less => (Some(*a), None),
                    Ordering::Greater => (None, Some(*b)),
                    Ordering::Equal => (Some(*a), Some(*b)),
                },
                (Some(Item::Entry(a)), None) => (Some(*a), None),
                (None, Some(Item::Entry(b))) => (None, Some(*b)),
                (None, None) => return None,
            };
            if a.is_some() {
                self.before.pop();
            }
            if b.is_some() {
                self.after.pop();
            }
            let (key, _) = a.or(b)?;
            let (before, after) = (a.map(|e| &e.1), b.map(|e| &e.1));
            if before != after {
                return Some(Difference { key, before, after });
            }
        }
    }
}

/// An ordered set with the properties of [`Map`].
pub struct Set<K>(Map<K, ()>);

impl<K> Set<K> {
    /// How many members it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = &K> + Clone {
        self.0.keys()
    }
}

impl<K: Ord> Set<K> {
    /// Whether it is a member.
    pub fn contains<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }
}

impl<K: Ord + Clone> Set<K> {
    /// Adds a member; says whether it is new.
    pub fn insert(&mut self, key: K) -> bool {
        !self.0.contains_key(&key) && self.0.insert(key, ()).is_none()
    }

    /// Removes a member; says whether it was there.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.remove(key).is_some()
    }
}

impl<K> Default for Set<K> {
    fn default() -> Self {
        Self(Map::new())
    }
}

impl<K> Clone for Set<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Ord> PartialEq for Set<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<K: Ord> Eq for Set<K> {}

impl<K: fmt::Debug> fmt::Debug for Set<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl<K: Ord + Clone> FromIterator<K> for Set<K> {
    fn from_iter<I: IntoIterator<Item = K>>(members: I) -> Self {
        Self(members.into_iter().map(|k| (k, ())).collect())
    }
}

impl<K: Ord + Clone> Extend<K> for Set<K> {
    fn extend<I: IntoIterator<Item = K>>(&mut self, members: I) {
        self.0.extend(members.into_iter().map(|k| (k, ())));
    }
}

#[cfg(test)]
mod tests;
