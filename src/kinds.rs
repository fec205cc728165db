//! Names what the server logs and counts: kinds of requests, and reasons to close a connection.
//!
//! The names are those of the metrics (Prometheus, "Metric and label naming").
//!
//! Deliberately absent: names that clients choose, which would let the list of metrics grow without bound.

/// Declares an enum whose variants can be counted, each with a number (from 0), a name and an optional text.
macro_rules! kinds {
    ($(#[$about:meta])* $Kind:ident { $($(#[$doc:meta])* $Variant:ident = $name:literal $(, $text:literal)?;)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $Kind { $($(#[$doc])* $Variant,)* }

        impl $Kind {
            /// All variants, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$Variant,)*];

            /// Returns the name of the variant, for the metrics.
            pub fn name(self) -> &'static str {
                match self { $(Self::$Variant => $name,)* }
            }

            /// Returns the text of the variant, for the log.
            pub fn text(self) -> Option<&'static str> {
                let text: &[&str] = match self { $(Self::$Variant => &[$($text)?],)* };
                text.first().copied()
            }
        }
    };
}

kinds! {
    /// What a client requests. The text labels the response in the log. An error has another label, except for the
    /// error of `Tls`. Health checks and metrics have no text and are not logged, because clients request them every
    /// few seconds.
    RequestKind {
        /// `/v2/`, by which a client checks that this is a registry.
        Base = "base", "Serving API version";
        Catalog = "catalog", "Serving catalog";
        Tags = "tags", "Serving tags";
        Referrers = "referrers", "Serving referrers";
        Index = "index", "Serving index";
        DockerList = "docker_list", "Serving Docker list";
        Manifest = "manifest", "Serving manifest";
        DockerManifest = "docker_manifest", "Serving Docker manifest";
        /// A piece of an artifact that refers to the image: its manifest, its config or its document.
        Artifact = "artifact", "Serving artifact";
        /// An index or a manifest that does not exist.
        UnknownManifest = "unknown_manifest";
        Config = "config", "Serving config";
        Layer = "layer", "Serving layer";
        /// A blob that does not exist.
        UnknownBlob = "unknown_blob";
        /// A token, which the server requires only if a rule of `--fault` says so.
        Token = "token", "Serving token";
        /// The description of the server, for a person.
        Welcome = "welcome", "Serving welcome";
        /// A health check: `/healthz`, or OPTIONS outside /v2, which load balancers send.
        Health = "health";
        /// The counters of the server.
        Metrics = "metrics";
        /// The methods and fields that are allowed under /v2.
        Options = "options", "Serving options";
        /// Something else: another path, or a method that the server refuses.
        Other = "other";
        /// Nothing, because the bytes are not a request.
        Unreadable = "unreadable";
        /// Nothing yet, because the bytes begin a TLS connection. Field note: such a connection is the first step of a
        /// pull that succeeds (observed with Docker 20.10 and containerd 1.7), so the log must not call it a failure.
        Tls = "tls", "Client tried HTTPS first, and may fall back to HTTP";
    }
}

kinds! {
    /// Why a connection was closed. A reason has a text if the server itself ends the connection and no line of a
    /// response shows why.
    CloseReason {
        /// The server sent the last response of the connection, for example because the client wanted no other, or had
        /// sent bytes that are not a request.
        LastResponse = "last_response";
        /// The client closed the connection before its first request, or between two requests.
        Left = "left";
        /// The client closed the connection within the head of a request.
        CutShort = "cut_short";
        /// The connection failed, because the client reset it or the network is gone.
        Broken = "broken";
        /// The client never sent anything.
        Silent = "silent", "it has never sent anything";
        /// The client had no further request for a long time.
        Idle = "idle", "it has sent no request for a long time";
        /// The client took no byte of a response for a long time.
        Stalled = "stalled", "it has read nothing of its response for a long time";
        /// The client had its last response, but did not close its side in time.
        DidNotClose = "did_not_close", "it did not close after its last response";
        /// A newcomer needed the place of this connection.
        NoPlace = "no_place", "a newcomer needs its place";
        /// The memory for incomplete heads and unsent responses was full.
        NoMemory = "no_memory", "the memory for incomplete heads and unsent responses is full";
        /// The kernel had no memory to watch the socket.
        NotWatched = "not_watched", "the kernel has no memory to watch it";
        /// A rule of `--fault` required a reset. The log shows the fault in the line of the response.
        FaultReset = "fault_reset";
        /// The server stops.
        Stopping = "stopping", "the server is stopping";
    }
}
