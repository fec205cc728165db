//! Names what the server logs and counts: kinds of requests, faults, and reasons to close a connection.
//!
//! Documents: none. The names are those of the metrics (Prometheus, "Metric and label naming").
//!
//! Deliberately absent: names that clients choose, which would let the list of metrics grow without bound.

/// Declares an enum whose variants can be counted. Each has a number, from 0, and a name.
macro_rules! names {
    ($(#[$about:meta])* $Kind:ident { $($(#[$doc:meta])* $Variant:ident = $name:literal;)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $Kind { $($(#[$doc])* $Variant,)* }

        impl $Kind {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$Variant,)*];

            /// Returns its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$Variant => $name,)* }
            }
        }
    };
}

/// The same, and each variant may have a text for the log.
macro_rules! kinds {
    (
        $(#[$about:meta])* $Kind:ident, $(#[$about_text:meta])* $text:ident
        { $($(#[$doc:meta])* $Variant:ident = $name:literal, $logged:expr;)* }
    ) => {
        names! { $(#[$about])* $Kind { $($(#[$doc])* $Variant = $name;)* } }

        impl $Kind {
            $(#[$about_text])*
            pub fn $text(self) -> Option<&'static str> {
                match self { $(Self::$Variant => $logged,)* }
            }
        }
    };
}

kinds! {
    /// What a client requests.
    RequestKind,
    /// Returns what the log shows unless the request is refused. Health checks and metrics are not logged, because clients
    /// request them every few seconds.
    label {
        /// Whether this is a registry.
        Base = "base", Some("Serving API version");
        /// The repositories.
        Catalog = "catalog", Some("Serving catalog");
        /// The tags.
        Tags = "tags", Some("Serving tags");
        /// What refers to a manifest.
        Referrers = "referrers", Some("Serving referrers");
        /// The index.
        Index = "index", Some("Serving index");
        /// Docker's form of the index.
        DockerList = "docker_list", Some("Serving Docker list");
        /// The manifest for a platform.
        Manifest = "manifest", Some("Serving manifest");
        /// Docker's form of the manifest for a platform.
        DockerManifest = "docker_manifest", Some("Serving Docker manifest");
        /// A part of an artifact that refers to the image: its manifest, its config or its document.
        Artifact = "artifact", Some("Serving artifact");
        /// An index or manifest that is not there.
        UnknownManifest = "unknown_manifest", None;
        /// The config of a platform.
        Config = "config", Some("Serving config");
        /// The layer of a platform.
        Layer = "layer", Some("Serving layer");
        /// A blob that is not there.
        UnknownBlob = "unknown_blob", None;
        /// A token, which is not required anywhere without `--fault`.
        Token = "token", Some("Serving token");
        /// What this is, for a person.
        Welcome = "welcome", Some("Serving welcome");
        /// Whether the server is healthy, or which methods are allowed outside of /v2.
        Health = "health", None;
        /// What the server has counted.
        Metrics = "metrics", None;
        /// Which methods and fields are allowed under /v2.
        Options = "options", Some("Serving options");
        /// Something else: another path, or a method that writes.
        Other = "other", None;
        /// Nothing, because the bytes are not a request.
        Unreadable = "unreadable", None;
        /// Nothing yet: the bytes begin a TLS connection. Field note: to these clients it is the first step of a pull
        /// that succeeds (Docker 20.10 and containerd 1.7, seen), so the log must not call it a failure.
        Tls = "tls", Some("Client tried HTTPS first, and may go on with HTTP");
    }
}

kinds! {
    /// Why a connection was closed.
    CloseReason,
    /// Returns what the log shows: nothing if the connection ended in order, or by the client.
    explanation {
        /// The last response was sent: the client wanted no other, or its bytes were not a request.
        LastResponse = "last_response", None;
        /// The client closed before its first request, or between two.
        Left = "left", None;
        /// The client closed within a head.
        CutShort = "cut_short", None;
        /// The connection failed: the client reset it, or the network is gone.
        Broken = "broken", None;
        /// The client never sent anything.
        Silent = "silent", Some("it has never sent anything");
        /// The client had no further request for a long time.
        Idle = "idle", Some("it has sent no request for a long time");
        /// The client took nothing of a response for a long time.
        Stalled = "stalled", Some("it has taken nothing of its response for a long time");
        /// The client had its last response, and did not close its side in time.
        DidNotClose = "did_not_close", Some("it did not close after its last response");
        /// A newcomer needed the place.
        NoPlace = "no_place", Some("a newcomer needs its place");
        /// The memory for incomplete heads and unsent responses was full.
        NoMemory = "no_memory", Some("the memory for incomplete heads and unsent responses is full");
        /// The kernel had no memory to watch the socket.
        NotWatched = "not_watched", Some("the kernel has no memory to watch it");
        /// A rule of `--fault` required a reset. The line of the response shows that.
        FaultReset = "fault_reset", None;
        /// A rule of `--fault` required a stall, and the client waited until the deadline.
        FaultStall = "fault_stall", None;
        /// The server stops.
        Stopping = "stopping", Some("the server stops");
    }
}

names! {
    /// What can be wrong with a response on purpose: see `fault`.
    Fault {
        /// No credentials are right.
        Unauthorized = "401";
        /// The client may not have it.
        Forbidden = "403";
        /// It is not there.
        NotFound = "404";
        /// The client asks too often, and may ask again after that time.
        TooManyRequests = "429";
        /// The server has failed.
        InternalServerError = "500";
        /// The registry behind a gateway has failed.
        BadGateway = "502";
        /// The server is overloaded, and may be asked again after that time.
        ServiceUnavailable = "503";
        /// The registry behind a gateway is silent.
        GatewayTimeout = "504";
        /// The connection ends after half of the content.
        Cut = "cut";
        /// Nothing comes after half of the content.
        Stall = "stall";
        /// The connection is reset within the content.
        Reset = "reset";
        /// A byte of the content is wrong.
        Flip = "flip";
        /// Docker-Content-Digest is wrong.
        WrongDigest = "wrong-digest";
        /// Content-Type is wrong.
        WrongType = "wrong-type";
        /// There is no Content-Length: the content ends with the connection.
        NoLength = "no-length";
        /// Range is ignored.
        NoRange = "no-range";
        /// The content is elsewhere.
        Redirect = "redirect";
        /// The client needs a token.
        Auth = "auth";
        /// Every connection is slow.
        Slow = "slow";
    }
}
