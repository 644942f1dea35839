//! What is wrong with objects, gathered from the stages that found it, for Events.

use crate::reconcile::Snapshots;
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::watch;
use weft_kube::{Kind, events::Complaint};
use weft_model::{NamespacedName, Snapshot};
use weft_services::Object;

/// What lowering found.
pub type Lowering = watch::Receiver<Arc<[weft_kube::Diagnostic]>>;
/// What planning found.
pub type Planning = watch::Receiver<Arc<[weft_services::Diagnostic]>>;
/// What planning of policy found.
pub type Judging = watch::Receiver<Arc<BTreeSet<Complaint>>>;

/// All complaints that are current.
fn gather(
    snapshot: &Snapshot,
    lowering: &[weft_kube::Diagnostic],
    planning: &[weft_services::Diagnostic],
) -> BTreeSet<Complaint> {
    let mut all: BTreeSet<Complaint> = lowering.iter().map(Complaint::from).collect();
    all.extend(planning.iter().filter_map(|d| {
        let blamed = d.blame(snapshot.services.get(&d.service)?);
        let (kind, object) = match blamed.object {
            Object::Service => (Kind::Service, d.service.clone()),
            Object::EndpointSlice(name) => {
                (Kind::EndpointSlice, NamespacedName::new(&d.service.namespace, &name))
            }
        };
        let (reason, field, message) = (blamed.reason, blamed.field, blamed.message);
        Some(Complaint { kind, object, reason, field, message })
    }));
    all
}

/// Tells them as Events, for ever.
pub async fn report(
    client: kube::Client,
    node: String,
    snapshots: Snapshots,
    mut lowering: Lowering,
    mut planning: Planning,
    mut judging: Judging,
) -> anyhow::Result<()> {
    let (current, told) = watch::channel(Arc::new(BTreeSet::new()));
    let gathering = async {
        loop {
            let found =
                (lowering.borrow_and_update().clone(), planning.borrow_and_update().clone());
            let snapshot = snapshots.borrow().clone();
            if let Some(snapshot) = snapshot {
                let mut all = gather(&snapshot, &found.0, &found.1);
                all.extend(judging.borrow_and_update().iter().cloned());
                current.send_if_modified(|now| {
                    let news = **now != all;
                    *now = Arc::new(all);
                    news
                });
            }
            tokio::select! {
                changed = lowering.changed() => changed?,
                changed = planning.changed() => changed?,
                changed = judging.changed() => changed?,
            }
        }
    };
    tokio::select! {
        ended = gathering => ended,
        () = weft_kube::events::report(client, node, told) => Ok(()),
    }
}
