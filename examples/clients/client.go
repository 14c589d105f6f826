// A client in Go: go run client.go http://localhost:8080 ../three.json
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"
)

const tries = 5

type answer struct {
	Error       string
	Predictions []struct{ Label string }
}

func predict(url string, body []byte) (*answer, error) {
	for attempt := 1; ; attempt++ {
		response, err := http.Post(url+"/v1/models/model:predict", "application/json", bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		var read answer
		err = json.NewDecoder(response.Body).Decode(&read)
		response.Body.Close()
		if err != nil {
			return nil, err
		}
		busy := response.StatusCode == 429 || response.StatusCode == 503 // or it loads the model
		if busy && attempt < tries {
			seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
			if err != nil {
				seconds = 1
			}
			time.Sleep(time.Duration(seconds) * time.Second)
			continue
		}
		if response.StatusCode != 200 {
			return nil, fmt.Errorf("%d: %s", response.StatusCode, read.Error)
		}
		return &read, nil
	}
}

func main() {
	body, err := os.ReadFile(os.Args[2])
	if err == nil {
		var read *answer
		if read, err = predict(os.Args[1], body); err == nil {
			for _, prediction := range read.Predictions {
				fmt.Println(prediction.Label)
			}
			return
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
