//! A cluster that runs, as `weft policy` sees it: what its API gives out.

use anyhow::{Context, Result};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::Value;
use std::path::{Path, PathBuf};
use weft_lab::paths::{LabPaths, STATE_ROOT};
use weft_policy_cli::Documents;

/// Which cluster is meant: a kubeconfig, or a lab
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "With --lab or --cluster")]
pub struct Where {
    /// Kubeconfig of the cluster, for --cluster alone [default: KUBECONFIG, else the only lab that runs]
    #[arg(long, conflicts_with = "name")]
    kubeconfig: Option<PathBuf>,
    /// Name of a running lab
    #[arg(long)]
    name: Option<String>,
    /// Directory of all labs' state
    #[arg(long, env = "WEFT_STATE_DIR", default_value = STATE_ROOT, hide = true)]
    state_dir: PathBuf,
}

impl Where {
    /// The lab that is meant.
    pub fn lab(&self) -> Result<LabPaths> {
        let root = self.state_dir.canonicalize().unwrap_or_else(|_| self.state_dir.clone());
        weft_lab::state::choose(&root, self.name.as_deref())
    }

    /// The objects of the cluster that is meant.
    pub fn objects(&self) -> Result<Documents> {
        let environment = std::env::var_os("KUBECONFIG").filter(|p| !p.is_empty());
        let given = match (&self.kubeconfig, &self.name) {
            (Some(path), _) => Some(path.clone()),
            (None, Some(_)) => None,
            (None, None) => environment.map(PathBuf::from),
        };
        match given {
            Some(path) => objects(&path),
            None => objects(&self.lab()?.kubeconfig()),
        }
    }
}

/// Group, version and kind of everything that policy depends on; the last may not be installed.
const KINDS: [(&str, &str, &str); 6] = [
    ("", "v1", "Namespace"),
    ("", "v1", "Node"),
    ("", "v1", "Pod"),
    ("", "v1", "Service"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
    ("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy"),
];

/// Everything that policy depends on.
pub fn objects(kubeconfig: &Path) -> Result<Documents> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let objects = runtime.context("start runtime")?.block_on(list(kubeconfig))?;
    Ok(Documents::of_objects("cluster", objects))
}

async fn list(path: &Path) -> Result<Vec<Value>> {
    let shown = || format!("use the kubeconfig {}", path.display());
    let kubeconfig = kube::config::Kubeconfig::read_from(path).with_context(shown)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
    let client = kube::Client::try_from(config.with_context(shown)?).with_context(shown)?;
    let mut objects = Vec::new();
    for (group, version, kind) in KINDS {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let all = match api.list(&ListParams::default()).await {
            Ok(all) => all.items,
            Err(kube::Error::Api(status)) if status.code == 404 && !group.is_empty() => continue,
            Err(e) => return Err(e).with_context(|| format!("list every {kind}")),
        };
        for object in all {
            let mut value = serde_json::to_value(object).context("encode an object")?;
            // Items of a list do not say what they are.
            value["apiVersion"] = resource.api_version.clone().into();
            value["kind"] = kind.into();
            objects.push(value);
        }
    }
    Ok(objects)
}
