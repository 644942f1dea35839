package main

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
)

// inNamespace gives a scenario a fresh namespace and deletes it afterwards.
func inNamespace(ctx context.Context, s *session, run func(context.Context, *session) error) error {
	namespaces := s.client.CoreV1().Namespaces()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}
	if _, err := namespaces.Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := run(ctx, s); err != nil {
		return err
	}
	return namespaces.Delete(ctx, s.namespace, metav1.DeleteOptions{})
}

func service(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}},
		},
	}
}

// crud creates, reads, updates with optimistic concurrency, updates status, and deletes with
// preconditions.
func crud(ctx context.Context, s *session) error {
	services := s.client.CoreV1().Services(s.namespace)
	made, err := services.Create(ctx, service("web"), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if made.Spec.ClusterIP == "" || made.Spec.Type != corev1.ServiceTypeClusterIP {
		return fmt.Errorf("not defaulted: %+v", made.Spec)
	}
	_, err = services.Create(ctx, service("web"), metav1.CreateOptions{})
	if !errors.IsAlreadyExists(err) {
		return fmt.Errorf("twice: %v", err)
	}
	stale := made.DeepCopy()
	made.Spec.Ports[0].Port = 81
	updated, err := services.Update(ctx, made, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	stale.Spec.Ports[0].Port = 82
	if _, err = services.Update(ctx, stale, metav1.UpdateOptions{}); !errors.IsConflict(err) {
		return fmt.Errorf("stale update: %v", err)
	}
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		fresh, err := services.Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		fresh.Labels["tier"] = "front"
		_, err = services.Update(ctx, fresh, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	updated.Spec.ClusterIP = "10.96.255.254"
	updated.ResourceVersion = ""
	if _, err = services.Update(ctx, updated, metav1.UpdateOptions{}); !errors.IsInvalid(err) {
		return fmt.Errorf("an immutable field: %v", err)
	}
	fresh, err := services.Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		return err
	}
	fresh.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	fresh.Spec.Type = corev1.ServiceTypeLoadBalancer
	if fresh, err = services.Update(ctx, fresh, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if len(fresh.Status.LoadBalancer.Ingress) != 0 {
		return fmt.Errorf("a status through the main resource: %+v", fresh.Status)
	}
	fresh.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	if fresh, err = services.UpdateStatus(ctx, fresh, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err = want("ingress", fresh.Status.LoadBalancer.Ingress[0].IP, "192.0.2.1"); err != nil {
		return err
	}
	wrong := types.UID("another")
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}}
	if err = services.Delete(ctx, "web", options); !errors.IsConflict(err) {
		return fmt.Errorf("another's uid: %v", err)
	}
	if err = services.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if _, err = services.Get(ctx, "web", metav1.GetOptions{}); !errors.IsNotFound(err) {
		return fmt.Errorf("deleted: %v", err)
	}
	if _, err = services.Create(ctx, service("Not_A_Name"), metav1.CreateOptions{}); !errors.IsInvalid(err) {
		return fmt.Errorf("a bad name: %v", err)
	}
	return nil
}

// protobuf speaks as kubelets and controllers do.
func protobuf(ctx context.Context, s *session) error {
	config := rest.CopyConfig(s.config)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	s = &session{config, client, s.dynamic, s.namespace}
	return first(crud(ctx, s), paging(ctx, s), patches(ctx, s), apply(ctx, s), watchFrom(ctx, s))
}

// paging lists in pages of one version, while others write.
func paging(ctx context.Context, s *session) error {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	name := func(i int) string { return fmt.Sprintf("page-%02d", i) }
	for i := range 10 {
		one := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name(i), Labels: map[string]string{"page": "yes"}}}
		if _, err := maps.Create(ctx, one, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	options := metav1.ListOptions{LabelSelector: "page=yes", Limit: 4}
	version := ""
	for pages := 1; ; pages++ {
		list, err := maps.List(ctx, options)
		if err != nil {
			return err
		}
		if version == "" {
			version = list.ResourceVersion
			if list.RemainingItemCount != nil {
				return fmt.Errorf("a selected list tells no remaining items: %d", *list.RemainingItemCount)
			}
			if err := maps.Delete(ctx, name(9), metav1.DeleteOptions{}); err != nil {
				return err
			}
		}
		if err := want("version of a page", list.ResourceVersion, version); err != nil {
			return err
		}
		for _, one := range list.Items {
			seen[one.Name] = true
		}
		if options.Continue = list.Continue; options.Continue == "" {
			if err := want("pages", pages, 3); err != nil {
				return err
			}
			break
		}
	}
	if err := want("objects at the first page's version", len(seen), 10); err != nil {
		return err
	}
	selected := metav1.ListOptions{LabelSelector: "page=yes"}
	if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{}, selected); err != nil {
		return err
	}
	list, err := maps.List(ctx, selected)
	if err != nil {
		return err
	}
	return want("after deletecollection", len(list.Items), 0)
}

// patches sends each type of patch, and the scale subresource.
func patches(ctx context.Context, s *session) error {
	deployments := s.client.AppsV1().Deployments(s.namespace)
	replicas := int32(0)
	labels := map[string]string{"app": "patched"}
	web := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "patched-"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{
					{Name: "a", Image: "example.test/a:1"}, {Name: "b", Image: "example.test/b:1"},
				}},
			},
		},
	}
	web, err := deployments.Create(ctx, web, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	patch := func(kind types.PatchType, body string) (*appsv1.Deployment, error) {
		return deployments.Patch(ctx, web.Name, kind, []byte(body), metav1.PatchOptions{})
	}
	got, err := patch(types.StrategicMergePatchType,
		`{"spec":{"template":{"spec":{"containers":[{"name":"b","image":"example.test/b:2"}]}}}}`)
	if err != nil {
		return err
	}
	containers := got.Spec.Template.Spec.Containers
	if len(containers) != 2 || containers[1].Image != "example.test/b:2" {
		return fmt.Errorf("strategic: %+v", containers)
	}
	got, err = patch(types.JSONPatchType,
		`[{"op":"test","path":"/spec/replicas","value":0},{"op":"remove","path":"/spec/template/spec/containers/1"}]`)
	if err != nil {
		return err
	}
	if err = want("after a JSON patch", len(got.Spec.Template.Spec.Containers), 1); err != nil {
		return err
	}
	if got, err = patch(types.MergePatchType, `{"metadata":{"annotations":{"note":"hi"}},"spec":{"minReadySeconds":3}}`); err != nil {
		return err
	}
	if err = first(want("note", got.Annotations["note"], "hi"), want("seconds", got.Spec.MinReadySeconds, 3)); err != nil {
		return err
	}
	if _, err = patch(types.JSONPatchType, `[{"op":"test","path":"/spec/replicas","value":9}]`); !errors.IsInvalid(err) {
		return fmt.Errorf("a failed test: %v", err)
	}
	// The scale bears the deployment's version, which a controller's status write moves on.
	var scale *autoscalingv1.Scale
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		fresh, err := deployments.GetScale(ctx, web.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		fresh.Spec.Replicas = 2
		scale, err = deployments.UpdateScale(ctx, web.Name, fresh, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	return first(
		want("scale", scale.Spec.Replicas, 2),
		want("selector", scale.Status.Selector, "app=patched"),
	)
}

// apply is server-side: fields are owned, conflicts told, given up fields removed.
func apply(ctx context.Context, s *session) error {
	deployments := s.client.AppsV1().Deployments(s.namespace)
	wanted := func(replicas int32, containers ...*coreapply.ContainerApplyConfiguration) *appsapply.DeploymentApplyConfiguration {
		labels := map[string]string{"app": "applied"}
		return appsapply.Deployment("applied", s.namespace).
			WithLabels(labels).
			WithSpec(appsapply.DeploymentSpec().
				WithReplicas(replicas).
				WithSelector(metaapply.LabelSelector().WithMatchLabels(labels)).
				WithTemplate(coreapply.PodTemplateSpec().WithLabels(labels).
					WithSpec(coreapply.PodSpec().WithContainers(containers...))))
	}
	a := coreapply.Container().WithName("a").WithImage("example.test/a:1")
	b := coreapply.Container().WithName("b").WithImage("example.test/b:1")
	one := metav1.ApplyOptions{FieldManager: "one"}
	made, err := deployments.Apply(ctx, wanted(0, a, b), one)
	if err != nil {
		return err
	}
	again, err := deployments.Apply(ctx, wanted(0, a, b), one)
	if err != nil {
		return err
	}
	// Controllers write status meanwhile, so that the version says nothing here.
	if err = want("generation after nothing changed", again.Generation, made.Generation); err != nil {
		return err
	}
	two := metav1.ApplyOptions{FieldManager: "two"}
	if _, err = deployments.Apply(ctx, wanted(1, a), two); !errors.IsConflict(err) {
		return fmt.Errorf("two owners: %v", err)
	}
	two.Force = true
	if _, err = deployments.Apply(ctx, wanted(1, a), two); err != nil {
		return err
	}
	less := wanted(1, a)
	less.Spec.Replicas = nil
	got, err := deployments.Apply(ctx, less, one)
	if err != nil {
		return err
	}
	if err = first(want("replicas, now of two", *got.Spec.Replicas, 1),
		want("containers", len(got.Spec.Template.Spec.Containers), 1)); err != nil {
		return err
	}
	extracted, err := appsapply.ExtractDeployment(got, "two")
	if err != nil {
		return err
	}
	if extracted.Spec == nil || extracted.Spec.Replicas == nil {
		return fmt.Errorf("two's fields cannot be extracted: %+v", extracted)
	}
	return want("extracted", *extracted.Spec.Replicas, 1)
}
