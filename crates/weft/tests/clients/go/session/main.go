// Command session does with client-go what operators do, against the cluster of $KUBECONFIG.
// It runs the scenarios named by its arguments, or all, and prints `ok NAME` after each.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// patience bounds every wait; conditions are watched, so a run that works never waits it out.
const patience = 30 * time.Second

// session is what a scenario works with: clients, and a namespace of its own.
type session struct {
	config    *rest.Config
	client    *kubernetes.Clientset
	dynamic   *dynamic.DynamicClient
	namespace string
}

type scenario struct {
	name string
	run  func(context.Context, *session) error
}

var scenarios = []scenario{
	{"crud", crud},
	{"protobuf", protobuf},
	{"paging", paging},
	{"patches", patches},
	{"apply", apply},
	{"watch", watchFrom},
	{"informers", informers},
	{"watchlist", watchList},
	{"election", election},
	{"dynamic", dynamicClient},
	{"discovery", discovery},
}

func main() {
	if err := runAll(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runAll(names []string) error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	// A scenario is no load test, but the default of 5 requests a second would make it one of
	// patience.
	config.QPS, config.Burst = 1000, 1000
	config.UserAgent = "session/1.0"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	for _, one := range scenarios {
		if len(names) > 0 && !contains(names, one.name) {
			continue
		}
		s := &session{config, client, dyn, "go-" + one.name}
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		err := inNamespace(ctx, s, one.run)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		fmt.Println("ok", one.name)
	}
	return nil
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// want fails with both values where they differ.
func want[T comparable](what string, got, wanted T) error {
	if got != wanted {
		return fmt.Errorf("%s: got %v, want %v", what, got, wanted)
	}
	return nil
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
