//! Names what the server tells apart when it logs and counts: what clients ask for, and why their
//! connections are closed.
//!
//! Documents: none. The names are those of the metrics (Prometheus, "Metric and label naming").
//!
//! Deliberately absent: anything that a client could name. A client that could make a name of its own
//! could make the list of metrics grow without end.

/// Declares an enum whose variants can be counted: each has a number, from 0, and a name.
macro_rules! kinds {
    ($(#[$about:meta])* $Kind:ident { $($(#[$doc:meta])* $Variant:ident = $name:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $Kind { $($(#[$doc])* $Variant,)* }

        impl $Kind {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$Variant,)*];

            /// How the metrics call it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$Variant => $name,)* }
            }
        }
    };
}

kinds! {
    /// What a client asks for.
    Endpoint {
        /// Whether this is a registry.
        Base = "base",
        /// The repositories.
        Catalog = "catalog",
        /// The tags.
        Tags = "tags",
        /// What refers to a manifest.
        Referrers = "referrers",
        /// The index.
        Index = "index",
        /// Docker's form of the index.
        DockerList = "docker_list",
        /// The manifest for a platform.
        Manifest = "manifest",
        /// Docker's form of the manifest for a platform.
        DockerManifest = "docker_manifest",
        /// A part of an artifact that refers to the image: its manifest, its config or its document.
        Artifact = "artifact",
        /// An index or manifest that is not there.
        UnknownManifest = "unknown_manifest",
        /// The config of a platform.
        Config = "config",
        /// The layer of a platform.
        Layer = "layer",
        /// A blob that is not there.
        UnknownBlob = "unknown_blob",
        /// What this is, for a person.
        Welcome = "welcome",
        /// Whether the server is well, or which methods are allowed outside of /v2.
        Health = "health",
        /// What the server has counted.
        Metrics = "metrics",
        /// Which methods and fields are allowed under /v2.
        Options = "options",
        /// Something else: another path, or a method that writes.
        Other = "other",
        /// Nothing, for the bytes are no request.
        Unreadable = "unreadable",
        /// Nothing yet: the bytes begin a TLS connection.
        Tls = "tls",
    }
}

impl Endpoint {
    /// What the log says is served. `None` if the log says nothing, as long as all goes well: health and
    /// metrics are asked for every few seconds.
    #[must_use]
    pub fn label(self) -> Option<&'static str> {
        Some(match self {
            Self::Base => "Serving API version",
            Self::Catalog => "Serving catalog",
            Self::Tags => "Serving tags",
            Self::Referrers => "Serving referrers",
            Self::Index => "Serving index",
            Self::DockerList => "Serving Docker list",
            Self::Manifest => "Serving manifest",
            Self::DockerManifest => "Serving Docker manifest",
            Self::Config => "Serving config",
            Self::Layer => "Serving layer",
            Self::Artifact => "Serving artifact",
            Self::Welcome => "Serving welcome",
            Self::Options => "Serving options",
            // The log says nothing of the first two, and the others are never served.
            Self::Health
            | Self::Metrics
            | Self::UnknownManifest
            | Self::UnknownBlob
            | Self::Other
            | Self::Unreadable => return None,
            // Field note: to these clients it is the first step of a pull that succeeds (Docker 20.10 and
            // containerd 1.7, seen), and must not look like a failure.
            Self::Tls => "Client tried HTTPS first, and may go on with HTTP",
        })
    }
}

kinds! {
    /// Why a connection was closed.
    CloseReason {
        /// The last answer was sent: the client wanted no other, or its bytes were no request.
        LastAnswer = "last_answer",
        /// The client closed before its first request, or between two.
        Left = "left",
        /// The client closed within a head.
        CutShort = "cut_short",
        /// The connection failed: the client reset it, or the network is gone.
        Broken = "broken",
        /// The client never said anything.
        Silent = "silent",
        /// The client had no further request for a long time.
        Idle = "idle",
        /// The client took nothing of its answer for a long time.
        Stalled = "stalled",
        /// The client had its last answer, and did not close its side in time.
        DidNotClose = "did_not_close",
        /// A newcomer needed the place.
        NoPlace = "no_place",
        /// The memory for half requests and unsent answers was full.
        NoMemory = "no_memory",
        /// The kernel had no memory to watch the socket.
        NotWatched = "not_watched",
        /// The server stops.
        Stopping = "stopping",
    }
}

impl CloseReason {
    /// What the log says of it; nothing if the client chose the end.
    #[must_use]
    pub fn explanation(self) -> Option<&'static str> {
        Some(match self {
            Self::LastAnswer | Self::Left | Self::CutShort | Self::Broken => return None,
            Self::Silent => "it has never said anything",
            Self::Idle => "it has asked nothing for a long time",
            Self::Stalled => "it has taken nothing of its answer for a long time",
            Self::DidNotClose => "it did not close after its last answer",
            Self::NoPlace => "a newcomer needs its place",
            Self::NoMemory => "the memory for half requests and unsent answers is full",
            Self::NotWatched => "the kernel has no memory to watch it",
            Self::Stopping => "the server stops",
        })
    }
}
