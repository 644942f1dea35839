//! The embedded API and the cluster's controllers, started as one: what the lab's supervisor
//! and `weft apiserver` have in common.
//!
//! [`ControlPlane::new`] loads the objects, [`ControlPlane::run`] serves and controls until it
//! is told to end. [`Credentials`] are what has to survive a restart besides the objects.
//!
//! ```
//! use k8s_openapi::api::core::v1::ConfigMap;
//! use kube::{Api, api::PostParams};
//! use tokio_util::sync::CancellationToken;
//! use weft_controlplane::ControlPlane;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In memory, without a socket: the client speaks to the server inside this process.
//! let plane = ControlPlane::new(Default::default(), Some(Default::default()))?;
//! let client = plane.client();
//! let stop = CancellationToken::new();
//! let running = tokio::spawn(plane.run(None, stop.clone()));
//!
//! let maps = Api::<ConfigMap>::namespaced(client, "default");
//! let mut map = ConfigMap::default();
//! map.metadata.name = Some("settings".into());
//! let stored = maps.create(&PostParams::default(), &map).await?;
//! assert!(stored.metadata.resource_version.is_some());
//!
//! stop.cancel();
//! running.await??;
//! # Ok(())
//! # }
//! ```
//!
//! It knows nothing of nodes, of packets, and of where the sockets come from.
#![forbid(unsafe_code)]

mod credentials;
mod error;
mod files;

pub use credentials::Credentials;
pub use error::Error;
pub use files::write_atomic;

use std::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use weft_apiserver::{ApiServer, Tls};

/// An API server and, where wanted, the controllers beside it.
pub struct ControlPlane {
    api: ApiServer,
    client: kube::Client,
    controllers: Option<weft_cluster::Config>,
}

impl ControlPlane {
    /// Loads the stored objects; nothing listens yet. Must be called inside a tokio runtime.
    pub fn new(
        api: weft_apiserver::Config,
        controllers: Option<weft_cluster::Config>,
    ) -> Result<Self, Error> {
        let api = ApiServer::new(api)?;
        let client = kube::client::ClientBuilder::new(api.service(), "default").build();
        Ok(Self { api, client, controllers })
    }

    /// A client inside this process, with every right.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// Serves on the sockets, which may come from other network namespaces, and runs the
    /// controllers until `stop` fires. No part ends by itself: if one does, that is the error.
    pub async fn run(
        self,
        serving: Option<(Vec<TcpListener>, Tls)>,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        let Self { api, client, controllers } = self;
        let mut parts: JoinSet<Result<(), Error>> = JoinSet::new();
        if let Some((listeners, tls)) = serving {
            let server = api.clone();
            parts.spawn(async move { Ok(server.serve(listeners, tls).await?) });
        }
        if let Some(config) = controllers {
            let stop = stop.child_token();
            parts.spawn(async move { Ok(weft_cluster::run(client, config, stop).await?) });
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            Some(ended) = parts.join_next() => {
                // Both parts also end by `stop`, perhaps before it is looked at here.
                let outcome = finished(ended);
                if !stop.is_cancelled() {
                    return outcome.and(Err(Error::Ended));
                }
                outcome?;
            }
        }
        api.shutdown();
        while let Some(ended) = parts.join_next().await {
            finished(ended)?;
        }
        Ok(())
    }
}

fn finished(ended: Result<Result<(), Error>, JoinError>) -> Result<(), Error> {
    match ended {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Ended),
    }
}
