//! Kubernetes' interface to container runtimes (CRI, `runtime.v1`): what a kubelet calls for a pod, and of the
//! messages what a pod needs. Names and numbers of fields are those of `cri-api/pkg/apis/runtime/v1/api.proto`.

use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// A namespace that is the node's. The network always is: a pod's own wants plugins.
const NODE: i32 = 2;
/// A namespace that is the container's own; of processes.
const CONTAINER: i32 = 1;
/// What a profile that holds nothing back is called.
const UNCONFINED: i32 = 1;

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
    #[prost(int32, tag = "2")]
    pid: i32,
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
    #[prost(bool, tag = "3")]
    readonly: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Capability {
    #[prost(string, repeated, tag = "1")]
    add: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    drop: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct SecurityProfile {
    #[prost(int32, tag = "1")]
    profile_type: i32,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerSecurity {
    #[prost(message, optional, tag = "1")]
    capabilities: Option<Capability>,
    #[prost(message, optional, tag = "3")]
    namespaces: Option<NamespaceOption>,
    #[prost(message, optional, tag = "15")]
    seccomp: Option<SecurityProfile>,
    #[prost(message, optional, tag = "16")]
    apparmor: Option<SecurityProfile>,
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

#[derive(Clone, PartialEq, Message)]
struct ExecSync {
    #[prost(string, tag = "1")]
    container: String,
    #[prost(string, repeated, tag = "2")]
    command: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout_s: i64,
}

/// What a command in a container left.
#[derive(Clone, PartialEq, Message)]
pub struct Executed {
    #[prost(bytes, tag = "1")]
    pub out: Vec<u8>,
    #[prost(bytes, tag = "2")]
    pub err: Vec<u8>,
    #[prost(int32, tag = "3")]
    pub status: i32,
}

/// What is told of a pod.
#[derive(Default)]
pub struct Pod<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    /// The cgroup that a kubelet makes for it.
    pub cgroup: &'a str,
    /// It sees the node's processes.
    pub host_pid: bool,
}

/// What is told of a container.
#[derive(Default)]
pub struct Container<'a> {
    pub name: &'a str,
    pub image: &'a str,
    pub command: Vec<&'a str>,
    pub mounts: Vec<Shared<'a>>,
    /// Its capabilities, instead of those that containers have, and no profile that holds anything back.
    pub rights: Option<Vec<&'a str>>,
}

/// A directory or file of the host's.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    pub host: &'a str,
    pub inside: &'a str,
    pub readonly: bool,
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
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
                    namespaces: Some(namespaces(pod.host_pid)),
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
        let unconfined = container.rights.as_ref().map(|_| SecurityProfile {
            profile_type: UNCONFINED,
        });
        let capabilities = container.rights.as_ref().map(|add| Capability {
            add: words(add),
            drop: words(&["ALL"]),
        });
        let of_pod = pod.config.linux.as_ref().and_then(|l| l.security.as_ref());
        let security = ContainerSecurity {
            capabilities,
            namespaces: of_pod.and_then(|s| s.namespaces.clone()),
            seccomp: unconfined.clone(),
            apparmor: unconfined,
        };
        let mount = |shared: &Shared| Mount {
            container_path: shared.inside.to_owned(),
            host_path: shared.host.to_owned(),
            readonly: shared.readonly,
        };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: container.name.to_owned(),
            }),
            image: Some(Image {
                image: container.image.to_owned(),
            }),
            command: words(&container.command),
            mounts: container.mounts.iter().map(mount).collect(),
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

    /// Runs a command in a container.
    pub fn exec(&mut self, container: &str, command: &[&str]) -> Executed {
        let asked = ExecSync {
            container: container.to_owned(),
            command: words(command),
            timeout_s: 120,
        };
        self.ask("ExecSync", asked)
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

fn namespaces(host_pid: bool) -> NamespaceOption {
    NamespaceOption {
        network: NODE,
        pid: if host_pid { NODE } else { CONTAINER },
    }
}
