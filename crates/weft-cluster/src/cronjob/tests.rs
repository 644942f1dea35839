use serde_json::{Value, json};

use crate::config::Config;
use crate::kinds::Kind;
use crate::simulation::bench::Bench;

const NS: &str = "ns";

fn play(spec: Value) -> Bench {
    let mut bench = Bench::new(7, Config::default());
    // The bench begins at 1970-01-12T13:46:40Z.
    bench.api.create(Kind::Namespace, "", json!({"metadata": {"name": NS}}));
    let mut cron = json!({"metadata": {"name": "c"}, "spec": {"schedule": "*/5 * * * *",
        "jobTemplate": {"metadata": {"labels": {"of": "c"}}, "spec": {"template": {"spec":
            {"restartPolicy": "Never", "containers": [{"name": "c"}]}}}}}});
    for (key, value) in spec.as_object().expect("fields") {
        cron["spec"][key] = value.clone();
    }
    bench.api.create(Kind::CronJob, NS, cron);
    bench.relist_all();
    bench.run();
    bench
}

fn jobs(bench: &Bench) -> Vec<String> {
    let name = |job: &Value| job["metadata"]["name"].as_str().expect("a name").to_owned();
    bench.api.list(Kind::Job).map(name).collect()
}

fn status(bench: &Bench) -> Value {
    bench.api.get(Kind::CronJob, NS, "c").expect("it")["status"].clone()
}

/// A Job ends.
fn end(bench: &mut Bench, job: &str, how: &str) {
    let time = crate::simulation::bench::time_of(bench);
    let body = json!({"status": {"completionTime": time, "conditions": [
        {"type": how, "status": "True", "lastTransitionTime": time}]}});
    bench.api.merge(Kind::Job, NS, job, &body);
    bench.run();
}

#[test]
fn a_job_at_each_time() {
    let mut bench = play(json!({}));
    assert!(jobs(&bench).is_empty());
    bench.wait(200);
    // 13:50:00, in minutes since 1970.
    assert_eq!(jobs(&bench), ["c-16670"]);
    let job = bench.api.get(Kind::Job, NS, "c-16670").expect("it").clone();
    let at = &job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert_eq!(at, "1970-01-12T13:50:00Z");
    assert_eq!(job["metadata"]["labels"]["of"], "c");
    assert_eq!(status(&bench)["lastScheduleTime"], "1970-01-12T13:50:00Z");
    assert_eq!(status(&bench)["active"][0]["name"], "c-16670");
    // Times that were missed: the last of them counts.
    bench.wait(7200);
    assert_eq!(jobs(&bench), ["c-16670", "c-16790"]);
    end(&mut bench, "c-16670", "Complete");
    assert_eq!(status(&bench)["active"].as_array().map(Vec::len), Some(1));
    assert!(!status(&bench)["lastSuccessfulTime"].is_null());
}

#[test]
fn runs_that_meet() {
    for (policy, wanted) in [
        ("Allow", vec!["c-16670", "c-16675"]),
        ("Forbid", vec!["c-16670"]),
        ("Replace", vec!["c-16675"]),
    ] {
        let mut bench = play(json!({"concurrencyPolicy": policy}));
        bench.wait(200);
        bench.wait(300);
        assert_eq!(jobs(&bench), wanted, "{policy}");
    }
    // What was forbidden starts late.
    let mut bench = play(json!({"concurrencyPolicy": "Forbid"}));
    bench.wait(200);
    bench.wait(310);
    end(&mut bench, "c-16670", "Complete");
    assert_eq!(jobs(&bench), ["c-16670", "c-16675"]);
    // Unless that is too late.
    let mut bench = play(json!({"concurrencyPolicy": "Forbid", "startingDeadlineSeconds": 20}));
    bench.wait(200);
    bench.wait(350);
    end(&mut bench, "c-16670", "Complete");
    assert_eq!(jobs(&bench), ["c-16670"]);
}

/// `kubectl create job --from=cronjob/c`: syncCronJob looks at its own list of active Jobs.
#[test]
fn a_job_that_somebody_else_made_is_not_active() {
    for policy in ["Forbid", "Replace"] {
        let mut bench = play(json!({"concurrencyPolicy": policy}));
        let uid = bench.api.get(Kind::CronJob, NS, "c").expect("it")["metadata"]["uid"].clone();
        let manual = json!({"metadata": {"name": "mine",
            "annotations": {"cronjob.kubernetes.io/instantiate": "manual"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "c",
                "uid": uid, "controller": true}]},
            "spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}});
        bench.api.create(Kind::Job, NS, manual);
        bench.relist_all();
        bench.run();
        assert_eq!(status(&bench)["active"], Value::Null);
        // It keeps no other from its time, and none takes its place.
        bench.wait(200);
        assert_eq!(jobs(&bench), ["c-16670", "mine"], "{policy}");
        let active = status(&bench)["active"].clone();
        assert_eq!(active.as_array().map(Vec::len), Some(1));
        assert_eq!(active[0]["name"], "c-16670");
        end(&mut bench, "mine", "Complete");
        assert!(!status(&bench)["lastSuccessfulTime"].is_null());
    }
}

#[test]
fn history_and_suspension() {
    let mut bench = play(json!({"successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0}));
    for (job, how) in [("c-16670", "Complete"), ("c-16675", "Failed"), ("c-16680", "Complete")] {
        bench.wait(300);
        let time = crate::simulation::bench::time_of(&bench);
        let body = json!({"status": {"startTime": time}});
        bench.api.merge(Kind::Job, NS, job, &body);
        end(&mut bench, job, how);
    }
    assert_eq!(jobs(&bench), ["c-16680"]);
    bench.api.merge(Kind::CronJob, NS, "c", &json!({"spec": {"suspend": true}}));
    bench.run();
    bench.wait(900);
    assert_eq!(jobs(&bench), ["c-16680"]);
}
