package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic/dynamicinformer"
	informerfactory "k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// until polls a condition until it holds.
func until(ctx context.Context, what string, holds func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !holds() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not after %s", what, patience)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

func configMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// watchFrom lists, and watches from the list's version: what happened since, in order.
func watchFrom(ctx context.Context, s *session) error {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	selected := metav1.ListOptions{LabelSelector: "watched=yes"}
	list, err := maps.List(ctx, selected)
	if err != nil {
		return err
	}
	made, err := maps.Create(ctx, configMap("watched", map[string]string{"watched": "yes"}), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	made.Data = map[string]string{"a": "b"}
	if made, err = maps.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	// To a watch that selects it no more, an object is deleted.
	made.Labels = nil
	if _, err = maps.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	selected.ResourceVersion = list.ResourceVersion
	selected.AllowWatchBookmarks = true
	w, err := maps.Watch(ctx, selected)
	if err != nil {
		return err
	}
	defer w.Stop()
	for _, kind := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
		var event watch.Event
		for event.Type == "" || event.Type == watch.Bookmark {
			select {
			case event = <-w.ResultChan():
			case <-time.After(patience):
				return fmt.Errorf("no event %s", kind)
			}
		}
		if err := want("event", event.Type, kind); err != nil {
			return err
		}
	}
	selected.ResourceVersion = "1000000000000"
	_, err = maps.List(ctx, metav1.ListOptions{ResourceVersion: selected.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if err == nil || errors.IsNotFound(err) {
		return fmt.Errorf("a version of the future: %v", err)
	}
	return maps.Delete(ctx, "watched", metav1.DeleteOptions{})
}

// informers fills caches of several kinds from one factory, sees every change, and indexes.
func informers(ctx context.Context, s *session) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	for i := range 20 {
		if _, err := maps.Create(ctx, configMap(fmt.Sprintf("before-%d", i), nil), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	factory := informerfactory.NewSharedInformerFactoryWithOptions(s.client, 0,
		informerfactory.WithNamespace(s.namespace))
	informer := factory.Core().V1().ConfigMaps()
	services := factory.Core().V1().Services().Informer()
	slices := factory.Discovery().V1().EndpointSlices().Informer()
	var added, updated, deleted atomic.Int32
	if _, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { added.Add(1) },
		UpdateFunc: func(any, any) { updated.Add(1) },
		DeleteFunc: func(any) { deleted.Add(1) },
	}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	synced, stop := context.WithTimeout(ctx, patience)
	defer stop()
	if !cache.WaitForCacheSync(synced.Done(), informer.Informer().HasSynced, services.HasSynced, slices.HasSynced) {
		return fmt.Errorf("the caches do not fill")
	}
	for i := range 10 {
		name := fmt.Sprintf("before-%d", i)
		one := configMap(name, map[string]string{"changed": "yes"})
		if _, err := maps.Update(ctx, one, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	for i := 10; i < 15; i++ {
		if err := maps.Delete(ctx, fmt.Sprintf("before-%d", i), metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	if _, err := s.client.CoreV1().Services(s.namespace).Create(ctx, service("web"), metav1.CreateOptions{}); err != nil {
		return err
	}
	// The controllers put kube-root-ca.crt into every namespace, before or after.
	if err := until(ctx, "the cache follows", func() bool {
		changed, err := informer.Lister().ConfigMaps(s.namespace).List(labels.SelectorFromSet(labels.Set{"changed": "yes"}))
		return err == nil && len(changed) == 10 && added.Load() >= 20 && updated.Load() >= 10 &&
			deleted.Load() == 5 && len(services.GetStore().List()) == 1
	}); err != nil {
		return fmt.Errorf("%w: %d added, %d updated, %d deleted", err, added.Load(), updated.Load(), deleted.Load())
	}
	cancel()
	factory.Shutdown()
	return nil
}

// counting tells list requests from streaming ones.
type counting struct {
	inner   http.RoundTripper
	lists   atomic.Int32
	streams atomic.Int32
}

func (c *counting) RoundTrip(r *http.Request) (*http.Response, error) {
	query := r.URL.Query()
	if strings.HasSuffix(r.URL.Path, "/configmaps") {
		switch {
		case query.Get("sendInitialEvents") == "true":
			c.streams.Add(1)
		case query.Get("watch") == "":
			c.lists.Add(1)
		}
	}
	return c.inner.RoundTrip(r)
}

// watchList fills a cache from one watch with sendInitialEvents; nothing is listed.
func watchList(ctx context.Context, s *session) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	for i := range 5 {
		if _, err := maps.Create(ctx, configMap(fmt.Sprintf("there-%d", i), nil), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	count := &counting{}
	config := rest.CopyConfig(s.config)
	config.Wrap(func(inner http.RoundTripper) http.RoundTripper {
		count.inner = inner
		return count
	})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informerfactory.NewSharedInformerFactoryWithOptions(client, 0, informerfactory.WithNamespace(s.namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	factory.Start(ctx.Done())
	if err := until(ctx, "the stream's end of the beginning", informer.HasSynced); err != nil {
		return err
	}
	if held := len(informer.GetStore().List()); held < 5 {
		return fmt.Errorf("%d objects in the cache", held)
	}
	cancel()
	factory.Shutdown()
	return first(want("streams", count.streams.Load(), 1), want("lists", count.lists.Load(), 0))
}

// election has two candidates for one Lease: the second leads when the first gives up.
func election(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	leaders := make(chan string, 4)
	run := func(ctx context.Context, id string) (<-chan struct{}, error) {
		lock, err := resourcelock.New(resourcelock.LeasesResourceLock, s.namespace, "leader",
			s.client.CoreV1(), s.client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: id})
		if err != nil {
			return nil, err
		}
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, ReleaseOnCancel: true, Name: id,
			LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 200 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { leaders <- id },
				OnStoppedLeading: func() {},
			},
		})
		if err != nil {
			return nil, err
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			elector.Run(ctx)
		}()
		return ended, nil
	}
	leads := func(id string) error {
		select {
		case got := <-leaders:
			return want("leader", got, id)
		case <-ctx.Done():
			return fmt.Errorf("%s never leads", id)
		}
	}
	firstCtx, resign := context.WithCancel(ctx)
	defer resign()
	ended, err := run(firstCtx, "first")
	if err != nil {
		return err
	}
	if err := leads("first"); err != nil {
		return err
	}
	secondCtx, end := context.WithCancel(ctx)
	secondEnded, err := run(secondCtx, "second")
	if err != nil {
		end()
		return err
	}
	resign()
	<-ended
	err = leads("second")
	end()
	<-secondEnded
	if err != nil {
		return err
	}
	lease, err := s.client.CoordinationV1().Leases(s.namespace).Get(context.Background(), "leader", metav1.GetOptions{})
	if err != nil {
		return err
	}
	return want("transitions", *lease.Spec.LeaseTransitions >= 1, true)
}

// dynamicClient works on objects whose types it does not know.
func dynamicClient(ctx context.Context, s *session) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ingresses := schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}
	client := s.dynamic.Resource(ingresses).Namespace(s.namespace)
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
		"metadata": map[string]any{"name": "front"},
		"spec": map[string]any{"defaultBackend": map[string]any{
			"service": map[string]any{"name": "web", "port": map[string]any{"number": int64(80)}}}},
	}}
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(s.dynamic, 0, s.namespace, nil)
	informer := factory.ForResource(ingresses).Informer()
	factory.Start(ctx.Done())
	if err := until(ctx, "the dynamic cache fills", informer.HasSynced); err != nil {
		return err
	}
	if _, err := client.Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return err
	}
	applied := object.DeepCopy()
	applied.SetLabels(map[string]string{"applied": "yes"})
	if _, err := client.Apply(ctx, "front", applied, metav1.ApplyOptions{FieldManager: "session", Force: true}); err != nil {
		return err
	}
	if err := until(ctx, "the dynamic cache follows", func() bool {
		item, found, _ := informer.GetStore().GetByKey(s.namespace + "/front")
		return found && item.(*unstructured.Unstructured).GetLabels()["applied"] == "yes"
	}); err != nil {
		return err
	}
	bad := object.DeepCopy()
	bad.SetName("bad")
	bad.Object["spec"].(map[string]any)["defaultBackend"] = map[string]any{"service": map[string]any{"name": "web"}}
	if _, err := client.Create(ctx, bad, metav1.CreateOptions{}); !errors.IsInvalid(err) {
		return fmt.Errorf("a backend without port: %v", err)
	}
	cancel()
	factory.Shutdown()
	return client.Delete(context.Background(), "front", metav1.DeleteOptions{})
}

// discovery finds versions, kinds and schemas.
func discovery(_ context.Context, s *session) error {
	version, err := s.client.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	if err := want("minor version", version.Minor, "35"); err != nil {
		return err
	}
	_, resources, err := s.client.Discovery().ServerGroupsAndResources()
	if err != nil {
		return err
	}
	found := false
	for _, list := range resources {
		for _, r := range list.APIResources {
			found = found || list.GroupVersion == "discovery.k8s.io/v1" && r.Name == "endpointslices" && r.Kind == "EndpointSlice" && r.Namespaced
		}
	}
	if !found {
		return fmt.Errorf("no EndpointSlice")
	}
	v2, err := s.client.Discovery().OpenAPISchema()
	if err != nil {
		return err
	}
	if len(v2.GetDefinitions().GetAdditionalProperties()) < 100 {
		return fmt.Errorf("OpenAPI v2 has few definitions")
	}
	paths, err := s.client.Discovery().OpenAPIV3().Paths()
	if err != nil {
		return err
	}
	text, err := paths["apis/apps/v1"].Schema("application/json")
	if err != nil {
		return err
	}
	return want("OpenAPI v3 has Deployment", strings.Contains(string(text), "io.k8s.api.apps.v1.Deployment"), true)
}
