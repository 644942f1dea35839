//! The data of claims goes with their volumes: a directory without its PersistentVolume is removed.
//!
//! The kubelets make the directories, under the volumes' names, and only for volumes that the API
//! has. So what lay there before a list began and is not in the list belongs to a volume that is
//! gone; of what was made since, the list may know nothing yet.

use anyhow::Result;
use futures::StreamExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// Removes what is left of volumes, for ever.
pub async fn keep(client: Client, dir: PathBuf) -> Result<()> {
    let api: Api<PersistentVolume> = Api::all(client);
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut sweep = Sweep::default();
    while let Some(event) = events.next().await {
        let name = |volume: PersistentVolume| volume.metadata.name.unwrap_or_default();
        let gone = match event {
            Ok(Event::Init) => {
                sweep = Sweep { before: entries(&dir), listed: BTreeSet::new() };
                continue;
            }
            Ok(Event::InitApply(volume)) => {
                sweep.listed.insert(name(volume));
                continue;
            }
            Ok(Event::InitDone) => std::mem::take(&mut sweep).gone(),
            Ok(Event::Apply(_)) => continue,
            Ok(Event::Delete(volume)) => BTreeSet::from([name(volume)]),
            Err(error) => {
                tracing::debug!(%error, "watch of PersistentVolumes");
                continue;
            }
        };
        let dir = dir.clone();
        // A volume may hold many files.
        tokio::task::spawn_blocking(move || gone.iter().for_each(|name| remove(&dir, name)))
            .await?;
    }
    anyhow::bail!("the watch of PersistentVolumes ended")
}

/// A list under way.
#[derive(Default)]
struct Sweep {
    before: BTreeSet<String>,
    listed: BTreeSet<String>,
}

impl Sweep {
    fn gone(self) -> BTreeSet<String> {
        self.before.difference(&self.listed).cloned().collect()
    }
}

fn entries(dir: &Path) -> BTreeSet<String> {
    let all = fs::read_dir(dir).into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Removes the data of one volume; links in it are not followed. What cannot be removed stays
/// until the next list, or the lab's end.
fn remove(dir: &Path, name: &str) {
    // A volume of anybody's making may bear any name.
    if Path::new(name).file_name() != Some(name.as_ref()) {
        return;
    }
    match fs::remove_dir_all(dir.join(name)) {
        Ok(()) => tracing::info!(volume = name, "its data is removed"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(volume = name, %error, "its data is not removed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_there_before_the_list_and_is_not_in_it_goes() {
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        let sweep = Sweep { before: set(&["kept", "left"]), listed: set(&["kept", "empty"]) };
        assert_eq!(sweep.gone(), set(&["left"]));
    }

    #[test]
    fn a_name_is_no_path() {
        let dir = std::env::temp_dir().join(format!("weft-volumes-{}", std::process::id()));
        let volumes = dir.join("volumes");
        fs::create_dir_all(volumes.join("pvc-1/deep")).expect("make");
        fs::create_dir_all(dir.join("other")).expect("make");
        std::os::unix::fs::symlink(dir.join("other"), volumes.join("pvc-1/link")).expect("link");
        for name in ["", ".", "..", "../other", "pvc-1/deep", "/", "absent"] {
            remove(&volumes, name);
        }
        assert!(volumes.join("pvc-1/deep").is_dir());
        remove(&volumes, "pvc-1");
        assert!(entries(&volumes).is_empty() && dir.join("other").is_dir());
        fs::remove_dir_all(&dir).expect("clean up");
    }
}
