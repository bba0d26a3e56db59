from train.moved import redirect

redirect()
