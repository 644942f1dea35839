// Command pod is what runs in the containers of the tests with a real container runtime. It
// needs nothing but itself, so an image of it is one file.
//
//	pod                 waits for ever, as a sandbox's first process does
//	pod serve :8080     answers HTTP with its host name and the client's address
//	pod get URL         prints what URL answers
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// patience bounds a request; a network that works answers in microseconds.
const patience = 5 * time.Second

func main() {
	err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 0:
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
		<-ended
		return nil
	case len(args) == 2 && args[0] == "serve":
		return http.ListenAndServe(args[1], http.HandlerFunc(identify))
	case len(args) == 2 && args[0] == "get":
		return get(args[1])
	}
	return fmt.Errorf("usage: pod [serve ADDRESS | get URL]")
}

func identify(w http.ResponseWriter, r *http.Request) {
	host, _ := os.Hostname()
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	fmt.Fprintf(w, "%s %s\n", host, client)
}

func get(url string) error {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}
