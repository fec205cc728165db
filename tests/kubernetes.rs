//! The manifests in `k8s/`: they are valid, they agree with each other, and the command that pins them works.
//!
//! `data/daemonset-apps-v1.json` is the strict schema of Kubernetes 1.32, in which an unknown property is an error. It
//! was generated from the `OpenAPI` document (Apache-2.0) by `openapi2jsonschema`. The descriptions were removed.
//!
//! Two tests need kubectl, which contacts no cluster, and are skipped without it.

mod common;

use common::sample::{self, AMD64, ARM64};
use common::{Folder, bash, has_tool, lossy, quinistry, readme_block, run, tool};
use quinistry::kubernetes::{CHILD, PARENT, pin};
use quinistry::server::GRACE;
use serde_json::{Value, json};

fn parse(manifest: &str) -> Value {
    serde_norway::from_str(manifest).expect("the manifest is YAML")
}

/// Returns the errors that a strict validator finds in a manifest.
fn errors(manifest: &Value) -> Vec<String> {
    let schema = serde_json::from_str(include_str!("data/daemonset-apps-v1.json")).expect("JSON");
    let draft = Some(jsonschema_valid::schemas::Draft::Draft7);
    let config = jsonschema_valid::Config::from_schema(&schema, draft).expect("a schema");
    match config.validate(manifest) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.map(|error| error.to_string()).collect(),
    }
}

#[test]
fn the_manifests_are_valid_both_as_written_and_pinned() {
    let (_, image) = sample::image(&[AMD64, ARM64]);
    for manifest in [PARENT, CHILD] {
        assert_eq!(errors(&parse(manifest)), [""; 0]);
        assert_eq!(errors(&parse(&pin(manifest, &image))), [""; 0]);
        // The validator is strict enough to notice a misspelling.
        for (name, wrong) in [("hostPort", "hostport"), ("8080", "eighty"), ("maxUnavailable", "maxSurges")] {
            assert_ne!(errors(&parse(&manifest.replacen(name, wrong, 1))), [""; 0], "{wrong}");
        }
    }
}

#[test]
fn pinning_adds_the_digest_and_the_architectures_and_changes_nothing_else() {
    for (machines, architectures) in
        [(&[AMD64][..], "[amd64]"), (&[ARM64], "[arm64]"), (&[ARM64, AMD64], "[amd64, arm64]")]
    {
        let (_, image) = sample::image(machines);
        let at = format!("@{}", image.index.descriptor.digest);
        for (manifest, name) in [(PARENT, "docker.io/library/quinistry:latest"), (CHILD, "localhost:5000/quinistry")] {
            let line = format!("image: {name}\n");
            assert_eq!((manifest.matches(&line).count(), manifest.matches("[amd64]").count()), (1, 1));
            let expected = manifest.replace(&line, &format!("image: {name}{at}\n"));
            assert_eq!(pin(manifest, &image), expected.replace("[amd64]", architectures));
        }
    }
}

#[test]
fn pinning_changes_no_line_that_only_looks_like_an_image_or_an_architecture() {
    let (image, _) = sample::packed();
    let others = "# about the image: none\n# image: none\n  base image: none\n  imagePullPolicy: Always\n  \
                  base values: [amd64]\n  # values: [amd64]\n  image:\n";
    assert_eq!(pin(others, &image), others);
}

#[test]
fn the_command_k8s_prints_manifests_that_are_pinned_to_its_own_image() {
    let result = |arguments: &[&str]| {
        let output = quinistry().args(arguments).output().expect("the command starts");
        (output.status.code(), lossy(&output.stdout).into_owned())
    };
    let (_, digest) = result(&["digest"]);
    let digest = digest.trim().strip_prefix("quinistry").expect("@ and the digest");
    for (name, manifest) in [("parent", PARENT), ("child", CHILD)] {
        let (code, printed) = result(&["k8s", name]);
        assert_eq!(code, Some(0));
        assert_eq!(parse(&printed)["metadata"]["name"], parse(manifest)["metadata"]["name"]);
        let image = parse(&printed)["spec"]["template"]["spec"]["containers"][0]["image"].to_string();
        assert!(image.contains(digest), "{image}");
    }
    for wrong in [&["k8s"][..], &["k8s", "other"], &["save", "k8s", "child"]] {
        assert_eq!(result(wrong), (Some(2), String::new()), "{wrong:?}");
    }
}

#[test]
fn parent_and_child_differ_where_they_must_and_nowhere_else() {
    let [mut parent, mut child] = [PARENT, CHILD].map(parse);
    for pointer in [
        "/metadata/name",
        "/metadata/labels/quinistry~1role",
        "/metadata/labels/quinistry~1generation",
        "/spec/selector/matchLabels/quinistry~1role",
        "/spec/template/metadata/labels/quinistry~1role",
        "/spec/template/metadata/labels/quinistry~1generation",
        "/spec/template/spec/containers/0/image",
        "/spec/template/spec/containers/0/imagePullPolicy",
        "/spec/template/spec/containers/0/ports/0/hostPort",
    ] {
        let [parent, child] = [&mut parent, &mut child]
            .map(|manifest| manifest.pointer_mut(pointer).expect("the manifest has it").take());
        assert_ne!(parent, child, "{pointer}");
    }
    assert_eq!(parent, child);
}

#[test]
fn a_pod_has_no_unnecessary_privileges() {
    for manifest in [PARENT, CHILD].map(parse) {
        let pod = &manifest["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        for (found, wanted) in [
            (&pod["automountServiceAccountToken"], json!(false)),
            (&pod["enableServiceLinks"], json!(false)),
            (&pod["securityContext"]["runAsNonRoot"], json!(true)),
            (&pod["securityContext"]["runAsUser"], json!(65532)),
            (&pod["securityContext"]["seccompProfile"], json!({ "type": "RuntimeDefault" })),
            (&container["securityContext"]["allowPrivilegeEscalation"], json!(false)),
            (&container["securityContext"]["readOnlyRootFilesystem"], json!(true)),
            (&container["securityContext"]["capabilities"], json!({ "drop": ["ALL"] })),
            (&container["resources"]["limits"], json!({ "memory": "64Mi" })),
            (&manifest["spec"]["updateStrategy"]["rollingUpdate"], json!({ "maxUnavailable": 1 })),
        ] {
            assert_eq!(*found, wanted);
        }
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            assert_eq!(container[probe]["httpGet"], json!({ "path": "/healthz", "port": "registry" }), "{probe}");
        }
    }
    // The parent uses the image on its node, and the child always pulls its image.
    let policies = [PARENT, CHILD]
        .map(|manifest| parse(manifest)["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"].clone());
    assert_eq!(policies, ["IfNotPresent", "Always"]);
}

#[test]
fn each_selector_matches_its_own_pods_whose_grace_period_is_long_enough() {
    for manifest in [PARENT, CHILD].map(parse) {
        let template = &manifest["spec"]["template"];
        let wanted = manifest["spec"]["selector"]["matchLabels"].as_object().expect("labels");
        for (label, value) in wanted {
            assert_eq!(template["metadata"]["labels"][label], *value);
        }
        let grace = template["spec"]["terminationGracePeriodSeconds"].as_u64().expect("seconds");
        assert!(grace > GRACE.as_secs());
    }
}

/// Makes kubectl read each manifest into its own types, add a variable, and write the result. A field that these types
/// lack would be lost.
#[test]
fn kubectl_reads_the_manifests_without_losing_any_field() {
    if !has_tool("kubectl", &["version", "--client"]) {
        return;
    }
    for (file, manifest) in [("k8s/parent.yaml", PARENT), ("k8s/child.yaml", CHILD)] {
        let arguments = ["set", "env", "--local", "--output", "json", "--filename", file, "READ=back"];
        let mut read: Value = serde_json::from_str(&run(tool("kubectl").args(arguments))).expect("JSON");
        for (pointer, added) in [
            ("/spec/template/spec/containers/0", "env"),
            ("/metadata", "creationTimestamp"),
            ("/spec/template/metadata", "creationTimestamp"),
            ("", "status"),
        ] {
            read.pointer_mut(pointer).and_then(Value::as_object_mut).expect("an object").remove(added);
        }
        assert_eq!(read, parse(manifest));
    }
}

#[test]
fn on_the_network_of_the_host_the_server_listens_on_its_host_port() {
    if !has_tool("kubectl", &["version", "--client"]) || !has_tool("bash", &["--version"]) {
        return;
    }
    let command = readme_block("sh", "kubectl patch");
    let patched = parse(&run(&mut bash(command, &Folder::new("patch"))));
    assert_eq!(errors(&patched), [""; 0]);
    let pod = &patched["spec"]["template"]["spec"];
    let port = &pod["containers"][0]["ports"][0];
    assert_eq!(pod["hostNetwork"], true);
    // On the host's network, Kubernetes requires both ports to be the same.
    assert_eq!(port["containerPort"], port["hostPort"]);
    assert_eq!(pod["containers"][0]["env"][0]["value"], format!("[::]:{}", port["hostPort"]));
}
