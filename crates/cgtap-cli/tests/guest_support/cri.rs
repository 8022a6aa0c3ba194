//! Kubernetes' interface to container runtimes (CRI, `runtime.v1`): what a kubelet calls for a pod, and of the
//! messages what a pod needs. Names and numbers of fields are those of `cri-api/pkg/apis/runtime/v1/api.proto`.

use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// The network is the node's: a pod's own wants plugins.
const NODE: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct NamespaceOption {
    #[prost(int32, tag = "1")]
    network: i32,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxSecurity {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxSandbox {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security: Option<SandboxSecurity>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct RunSandbox {
    #[prost(message, optional, tag = "1")]
    config: Option<SandboxConfig>,
}

/// The id of a pod or container: what those that make one answer, and the others ask for.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct Mount {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerSecurity {
    #[prost(message, optional, tag = "3")]
    namespaces: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxContainer {
    #[prost(message, optional, tag = "2")]
    security: Option<ContainerSecurity>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<Image>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    mounts: Vec<Mount>,
    #[prost(message, optional, tag = "15")]
    linux: Option<LinuxContainer>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    sandbox: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<SandboxConfig>,
}

/// What is told of a pod.
pub struct Pod<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    /// The cgroup that a kubelet makes for it.
    pub cgroup: &'a str,
}

/// What is told of a container.
pub struct Container<'a> {
    pub name: &'a str,
    pub image: &'a str,
    pub command: &'a [&'a str],
    /// Host's path, container's path.
    pub mount: (&'a str, &'a str),
}

/// A pod that runs.
pub struct Running {
    pub sandbox: String,
    config: SandboxConfig,
}

/// A runtime that is asked.
pub struct Cri {
    runtime: tokio::runtime::Runtime,
    grpc: Grpc<Channel>,
}

impl Cri {
    /// Connects to the runtime at a socket.
    pub fn connect(socket: &str) -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(format!("unix:{socket}")).unwrap();
        let channel = runtime.block_on(endpoint.connect()).unwrap();
        Self {
            runtime,
            grpc: Grpc::new(channel),
        }
    }

    /// Asks for something of the runtime's service.
    fn ask<Q, A>(&mut self, method: &str, request: Q) -> A
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let path = path.parse().unwrap();
        let answer = self.runtime.block_on(async {
            self.grpc.ready().await.unwrap();
            let request = tonic::Request::new(request);
            self.grpc.unary(request, path, ProstCodec::default()).await
        });
        let answer = answer.unwrap_or_else(|e| panic!("{method}: {e}"));
        answer.into_inner()
    }

    /// Asks for something to be done with a pod or container.
    fn tell(&mut self, method: &str, id: &str) {
        let id = id.to_owned();
        self.ask::<_, Id>(method, Id { id });
    }

    /// Has a pod run.
    pub fn run(&mut self, pod: &Pod) -> Running {
        let config = SandboxConfig {
            metadata: Some(Metadata {
                name: pod.name.to_owned(),
                uid: pod.uid.to_owned(),
                namespace: pod.namespace.to_owned(),
            }),
            linux: Some(LinuxSandbox {
                cgroup_parent: pod.cgroup.to_owned(),
                security: Some(SandboxSecurity {
                    namespaces: Some(NamespaceOption { network: NODE }),
                }),
            }),
        };
        let asked = RunSandbox {
            config: Some(config.clone()),
        };
        let Id { id: sandbox } = self.ask("RunPodSandbox", asked);
        Running { sandbox, config }
    }

    /// Has a container run in a pod; its id.
    pub fn add(&mut self, pod: &Running, container: &Container) -> String {
        let (host, inside) = container.mount;
        let security = ContainerSecurity {
            namespaces: Some(NamespaceOption { network: NODE }),
        };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: container.name.to_owned(),
            }),
            image: Some(Image {
                image: container.image.to_owned(),
            }),
            command: container.command.iter().map(|w| (*w).to_owned()).collect(),
            mounts: vec![Mount {
                container_path: inside.to_owned(),
                host_path: host.to_owned(),
            }],
            linux: Some(LinuxContainer {
                security: Some(security),
            }),
        };
        let asked = CreateContainer {
            sandbox: pod.sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let Id { id } = self.ask("CreateContainer", asked);
        self.tell("StartContainer", &id);
        id
    }

    /// Ends a container.
    pub fn remove(&mut self, container: &str) {
        self.tell("StopContainer", container);
        self.tell("RemoveContainer", container);
    }

    /// Ends a pod, with what is in it.
    pub fn end(&mut self, pod: &Running) {
        self.tell("StopPodSandbox", &pod.sandbox);
        self.tell("RemovePodSandbox", &pod.sandbox);
    }
}
