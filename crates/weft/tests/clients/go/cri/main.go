// Command cri makes one call to a container runtime, as a kubelet would:
//
//	cri /path/to/containerd.sock RuntimeService/RunPodSandbox < request.json
//
// It prints the answer as JSON, or the error's code and message on standard error.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// patience is the kubelet's own default for a runtime request.
const patience = 2 * time.Minute

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: cri SOCKET SERVICE/METHOD < request.json")
		os.Exit(2)
	}
	if err := call(os.Args[1], os.Args[2]); err != nil {
		s := status.Convert(err)
		fmt.Fprintf(os.Stderr, "%s: %s\n", s.Code(), s.Message())
		os.Exit(1)
	}
}

func call(socket, name string) error {
	service, methodName, _ := strings.Cut(name, "/")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName("runtime.v1." + service))
	if err != nil {
		return err
	}
	described, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return fmt.Errorf("%s is no service", service)
	}
	method := described.Methods().ByName(protoreflect.Name(methodName))
	if method == nil {
		return fmt.Errorf("%s has no method %s", service, methodName)
	}
	request, err := message(method.Input())
	if err != nil {
		return err
	}
	answer, err := message(method.Output())
	if err != nil {
		return err
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(text, request); err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	path := fmt.Sprintf("/%s/%s", described.FullName(), method.Name())
	if err := conn.Invoke(ctx, path, request, answer); err != nil {
		return err
	}
	printed, err := protojson.Marshal(answer)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(printed)
	return err
}

// message makes an empty message of a described type.
func message(of protoreflect.MessageDescriptor) (protoreflect.ProtoMessage, error) {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(of.FullName())
	if err != nil {
		return nil, err
	}
	return kind.New().Interface(), nil
}
